"""Sampled replies of real versions: a taste for what one of them writes tells them apart."""

import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted_models import Script, prefers_short
from tests.support.threads import at_once
from tests.support.two_versions import ADAPTER, TwoVersions
from trainer.gate.comparison import HARMS
from trainer.gate.decision import Verdict
from trainer.gate.prompts import general_prompts
from trainer.gate.replies import judge_sampled, sample_versions
from trainer.gate.strength import scale_adapter

STRENGTHS = [1.0]


class Versions(TwoVersions):
    """Random weights write what they write: only the taste is to decide here, and no harm."""

    def __init__(self, model: Path, folder: Path) -> None:
        harmless = {f"gate_{harm.name}_tolerance": 100 for harm in HARMS}
        super().__init__(
            model, folder, general_prompts()[:30], gate_prompts=30, gate_max_prompts=0, **harmless
        )

    def judge(self, liked: str | None, **changes: Any) -> tuple[Verdict, float]:
        votes = changes.get("votes") or self.votes(liked)
        given: dict[str, Any] = {"strengths": STRENGTHS, "votes": votes, "held_out": votes[:5], **changes}
        settings = given.pop("settings", self.settings)
        return judge_sampled(self.source, self.adapter, None, settings=settings, report=self.report, **given)


@pytest.fixture(scope="module")
def versions(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return Versions(tiny_model, tmp_path_factory.mktemp("replies"))


@pytest.mark.parametrize(("liked", "outcome"), [(ADAPTER, "pass"), (None, "fail")])
def test_the_version_that_people_like_is_told_from_the_other(
    versions: Versions, liked: Any, outcome: str
) -> None:
    verdict, strength = versions.judge(liked)
    assert verdict.outcome == outcome, verdict.reason
    assert strength == 1.0
    assert verdict.measures["replies"]["taste"]["quality"]["votes"] == 60


@pytest.mark.parametrize(("budget", "prompts", "strengths"), [(0, 30, 2), (60, 24, 2), (15, 8, 1)])
def test_a_budget_bounds_prompts_and_strengths(
    versions: Versions, budget: float, prompts: int, strengths: int
) -> None:
    """The clock goes on by 10 s whenever it is read: the first eight prompts take 10 s."""
    votes = versions.votes(None)  # the candidate's replies are disliked at every strength
    evidence = sample_versions(
        *(versions.source, versions.adapter, None),
        strengths=[0.5, 1.0],
        votes=votes,
        held_out=votes[:5],
        settings=versions.settings.model_copy(update={"gate_seconds": budget}),
        report=versions.report,
        clock=count(0, 10).__next__,
    )
    assert {len(one.words) for one in (evidence.base, *evidence.candidates.values())} == {prompts}
    assert list(evidence.candidates) == [1.0, 0.5][:strengths]


@pytest.mark.parametrize(("strength", "prompts"), [(1.0, 10), (0.01, 30)])
def test_more_prompts_are_replied_to_where_the_first_leave_it_open(
    versions: Versions, strength: float, prompts: int
) -> None:
    """At a strength of 0.01 the candidate writes nearly what the base model does."""
    counts = {"gate_prompts": 10, "gate_max_prompts": 30}
    votes = versions.votes(ADAPTER)
    given: dict[str, Any] = {
        "strengths": [strength],
        "votes": votes,
        "held_out": votes,
        "report": versions.report,
    }
    places = versions.source, versions.adapter, None
    found = sample_versions(*places, settings=versions.settings.model_copy(update=counts), **given)
    assert len(found.base.words) == len(found.candidates[strength].words) == prompts
    if prompts == 30:  # sampled in two parts, and the same as at once
        whole = sample_versions(*places, settings=versions.settings, **given)
        assert (found.base.words == whole.base.words).all()


def test_too_few_votes_leave_the_decision_to_an_admin(versions: Versions) -> None:
    verdict, strength = versions.judge(ADAPTER, votes=versions.votes(ADAPTER)[:5])
    assert (verdict.outcome, strength) == ("not_enough_evidence", 1.0)
    assert "disliked replies" in verdict.reason or "liked replies" in verdict.reason


def test_corrections_and_signals_judge_nothing(versions: Versions) -> None:
    votes = versions.votes(ADAPTER)
    others = [
        replace(one, example=replace(one.example, source=source, label=not one.label))
        for source in ("correction", "signal:copied")
        for one in votes
    ]
    verdict, _ = versions.judge(ADAPTER, votes=[*votes, *others])
    assert verdict.outcome == "pass", verdict.reason
    assert verdict.measures["replies"]["taste"]["quality"]["votes"] == 60


def test_harm_rejects_what_is_liked(versions: Versions) -> None:
    settings = versions.settings.model_copy(update={"gate_log_probability_tolerance": -5.0})
    verdict, strength = versions.judge(ADAPTER, settings=settings)
    assert (verdict.outcome, strength) == ("fail", 0.0)
    assert "log-probability a token under the base model" in verdict.reason


@pytest.mark.parametrize(("in_gate", "outcome"), [(False, "not_enough_evidence"), (True, "pass")])
def test_what_a_judge_rated_teaches_the_gate_no_taste_unless_a_setting_says_so(
    versions: Versions, in_gate: bool, outcome: str
) -> None:
    votes = [
        replace(one, example=replace(one.example, origin="judge:j", source="judge:j"))
        for one in versions.votes(ADAPTER)
    ]
    settings = versions.settings.model_copy(update={"judge_in_gate": in_gate})
    verdict, _ = versions.judge(ADAPTER, votes=votes, settings=settings)
    assert verdict.outcome == outcome, verdict.reason


def test_a_judge_reads_both_replies_to_each_prompt(versions: Versions) -> None:
    with Script({"judge": prefers_short}).served() as url:
        settings = versions.settings.model_copy(update={"gate_judge": f"j={url},judge"})
        # In a thread of its own, since a browser's tests leave an event loop in this one.
        ((verdict, _),) = at_once([lambda: versions.judge(ADAPTER, settings=settings)])
    found = verdict.measures["replies"]["judge"]
    assert (found["won"] + found["ties"] + found["lost"], found["failed"]) == (30, 0)
    assert min(found["won"], found["lost"]) > 0, "which of them is which says test_asking.py"
    assert found["share"]["mean"] == pytest.approx((found["won"] + found["ties"] / 2) / 30)
    assert "the judge j prefers" in verdict.reason.lower()


def test_progress_names_what_is_done(versions: Versions) -> None:
    votes = versions.votes(ADAPTER)
    versions.phases.clear()
    versions.judge(ADAPTER, votes=votes)
    assert list(dict.fromkeys(versions.phases)) == [
        "reading votes",
        "sampling replies of the base model and replies of the candidate version",
        "reading replies of the base model",
        "reading general texts",
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
        votes=versions.votes(ADAPTER)[:4],
        held_out=[],
        settings=versions.settings,
        report=versions.report,
    )
    assert (verdict.outcome, strength) == ("not_enough_evidence", 1.0)
    assert "could not be sampled" in verdict.reason
