"""Sampled replies of real versions: a taste for what one of them writes tells them apart."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.settings import Settings
from tests.support.adapters import build_adapter
from tests.support.examples import rated_reply
from trainer.dataset.tokenise import TokenisedExample
from trainer.gate.decision import Verdict
from trainer.gate.prompts import gate_prompts
from trainer.gate.replies import CANDIDATE, judge_sampled
from trainer.gate.strength import scale_adapter
from trainer.model.base_model import BaseModelSource, resolve
from trainer.taste.sampler import ReplySampler

STRENGTHS = [1.0]


class Versions:
    """A tiny base model, and an adapter that makes it write other texts."""

    def __init__(self, model: Path, folder: Path) -> None:
        # Random weights write what they write: only the taste is to decide here.
        harmless = {
            f"gate_{name}_tolerance": 100 for name in ("finished", "empty", "repetition", "log_probability")
        }
        self.settings = Settings(
            data_dir=folder,
            model=str(model),
            precision="fp32",
            gate_reply_tokens=24,
            gate_prompts=30,
            **harmless,
        )  # type: ignore[arg-type]
        self.source: BaseModelSource = resolve(self.settings)
        self.adapter = build_adapter(model, folder / "adapter")
        self.phases: list[str] = []

    def votes(self, liked: str) -> list[TokenisedExample]:
        """Votes on replies of both versions; those of `liked` are up, `nothing` makes it random."""
        sampler = ReplySampler(self.source, {CANDIDATE: self.adapter}, self.settings, self.report)
        prompts = gate_prompts([], sampler.tokenizer, count=30, longest=900, system_prompt="")
        rows = []
        for name in (None, CANDIDATE):
            for number, reply in enumerate(sampler.sample(prompts, name)):
                label = hash((number, name)) % 2 == 0 if liked == "nothing" else (name == liked)
                rows.append(rated_reply(reply, label, chat=f"{name} {number}"))
        return rows

    def report(self, state: dict[str, object]) -> None:
        self.phases.append(str(state["phase"]))

    def judge(self, liked: str, **changes: Any) -> tuple[Verdict, float]:
        votes = changes.get("votes") or self.votes(liked)
        given: dict[str, Any] = {"strengths": STRENGTHS, "votes": votes, "held_out": votes[:5], **changes}
        settings = given.pop("settings", self.settings)
        return judge_sampled(self.source, self.adapter, None, settings=settings, report=self.report, **given)


@pytest.fixture(scope="module")
def versions(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return Versions(tiny_model, tmp_path_factory.mktemp("replies"))


@pytest.mark.parametrize(("liked", "outcome"), [(CANDIDATE, "pass"), (None, "fail")])
def test_the_version_that_people_like_is_told_from_the_other(
    versions: Versions, liked: Any, outcome: str
) -> None:
    verdict, strength = versions.judge(liked)
    assert verdict.outcome == outcome, verdict.reason
    assert strength == 1.0
    assert verdict.measures["replies"]["taste"]["quality"]["votes"] == 60


def test_too_few_votes_leave_the_decision_to_an_admin(versions: Versions) -> None:
    verdict, strength = versions.judge(CANDIDATE, votes=versions.votes(CANDIDATE)[:5])
    assert (verdict.outcome, strength) == ("not_enough_evidence", 1.0)
    assert "disliked replies" in verdict.reason or "liked replies" in verdict.reason


def test_corrections_and_signals_judge_nothing(versions: Versions) -> None:
    votes = versions.votes(CANDIDATE)
    others = [
        replace(one, example=replace(one.example, source=source, label=not one.label))
        for source in ("correction", "signal:copied")
        for one in votes
    ]
    verdict, _ = versions.judge(CANDIDATE, votes=[*votes, *others])
    assert verdict.outcome == "pass", verdict.reason
    assert verdict.measures["replies"]["taste"]["quality"]["votes"] == 60


def test_harm_rejects_what_is_liked(versions: Versions) -> None:
    settings = versions.settings.model_copy(update={"gate_log_probability_tolerance": -5.0})
    verdict, strength = versions.judge(CANDIDATE, settings=settings)
    assert (verdict.outcome, strength) == ("fail", 0.0)
    assert "log-probability a token under the base model" in verdict.reason


def test_progress_names_what_is_done(versions: Versions) -> None:
    votes = versions.votes(CANDIDATE)
    versions.phases.clear()
    versions.judge(CANDIDATE, votes=votes)
    assert list(dict.fromkeys(versions.phases)) == [
        "reading votes",
        "sampling replies of the base model",
        "reading replies of the base model",
        "sampling replies of the candidate version",
        "reading replies of the candidate version",
    ]


def test_an_adapter_that_cannot_reply_leaves_the_decision_to_an_admin(
    versions: Versions, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(versions.adapter, tmp_path / "broken"))
    scale_adapter(broken, float("nan"))
    verdict, strength = judge_sampled(
        versions.source,
        broken,
        None,
        strengths=STRENGTHS,
        votes=versions.votes(CANDIDATE)[:4],
        held_out=[],
        settings=versions.settings,
        report=versions.report,
    )
    assert (verdict.outcome, strength) == ("not_enough_evidence", 1.0)
    assert "could not be sampled" in verdict.reason
