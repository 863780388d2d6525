"""The gate's verdict: every outcome, at its edge, with a reason that people can act on."""

import dataclasses
import json
import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from storage.settings import Settings
from trainer.gate.comparison import Sampled
from trainer.gate.decision import ReplyEvidence, Verdict, judge, judge_replies
from trainer.gate.measures import Evaluation
from trainer.judge.asking import Preference
from trainer.taste.auc import chance_standard_error
from trainer.taste.features import Features
from trainer.taste.taste import Abstention, Taste, learn_taste

# So many that chance alone moves the AUC by less than any tolerance.
MANY = {"n_desirable": 5000, "n_undesirable": 5000}
SETTINGS = Settings(gate_min_votes=6, gate_loss_tolerance=0.005, gate_auc_tolerance=0.02)


def evaluation(**values: Any) -> Evaluation:
    plain: dict[str, Any] = {
        "loss": 0.48,
        "auc": 0.7,
        "auc_standard_error": 0.0,
        "margin": 0.4,
        "desirable_log_probability": -80.0,
        "n_desirable": 5,
        "n_undesirable": 5,
        "z0": 0.0,
        "rewards": [0.0] * 10,
    }
    return Evaluation(**{**plain, **values})


def counted(up: int, down: int) -> Evaluation:
    return evaluation(n_desirable=up, n_undesirable=down, auc=0.7 if up and down else None)


def verdict(candidate: Evaluation | None, deployed: Evaluation | None, finite: bool = True) -> Verdict:
    return judge(candidate, deployed, finite=finite, settings=SETTINGS)


def test_better_passes() -> None:
    found = verdict(evaluation(), evaluation(loss=0.5, auc=0.5))
    assert found.outcome == "pass"
    assert found.reason == (
        "Not worse than the deployed version on 10 held-out votes (5 up, 5 down): "
        "KTO loss 0.4800 against 0.5000, AUC 0.700 against 0.500."
    )


def test_equal_passes() -> None:
    assert verdict(evaluation(), evaluation()).outcome == "pass"


@pytest.mark.parametrize(
    ("values", "outcome", "reason"),
    [
        ({"loss": 0.4849}, "pass", "Not worse"),
        ({"loss": 0.4851}, "fail", "KTO loss 0.4851 against 0.4800, worse by more than 0.005"),
        ({"auc": 0.681}, "pass", "Not worse"),
        ({"auc": 0.679}, "fail", "AUC 0.679 against 0.700, worse by more than 0.020"),
    ],
)
def test_a_measure_may_get_worse_by_its_tolerance(
    values: dict[str, float], outcome: str, reason: str
) -> None:
    found = verdict(evaluation(**values, **MANY), evaluation(**MANY))
    assert found.outcome == outcome
    assert reason in found.reason


@pytest.mark.parametrize(("auc", "outcome"), [(0.56, "pass"), (0.54, "fail")])
@pytest.mark.parametrize("errors", [(0.15, 0.0), (0.0, 0.15), (0.15, 0.1)])
def test_the_auc_may_fall_by_a_standard_error(auc: float, outcome: str, errors: tuple[float, float]) -> None:
    found = verdict(
        evaluation(auc=auc, auc_standard_error=errors[0], **MANY),
        evaluation(auc_standard_error=errors[1], **MANY),
    )
    assert found.outcome == outcome
    assert found.measures["auc_tolerance"] == 0.15


def test_every_fault_is_named() -> None:
    reason = verdict(evaluation(loss=0.6, auc=0.3), evaluation()).reason
    assert "KTO loss 0.6000 against 0.4800" in reason
    assert "AUC 0.300 against 0.700" in reason


def test_weights_that_are_not_finite_fail_before_anything_else() -> None:
    for candidate in (None, evaluation()):
        found = verdict(candidate, None, finite=False)
        assert found.outcome == "fail"
        assert "weights of the adapter are not all finite" in found.reason


@pytest.mark.parametrize(
    "values",
    [
        {"loss": math.nan},
        {"z0": math.inf},
        {"rewards": [math.inf] + [0.0] * 9, "auc": math.nan},
        {"loss": math.nan, "n_desirable": 1, "n_undesirable": 1},
    ],
)
def test_figures_that_are_not_finite_fail(values: dict[str, Any]) -> None:
    found = verdict(evaluation(**values), evaluation())
    assert found.outcome == "fail"
    assert "THUMBLOOP_LEARNING_RATE" in found.reason


@pytest.mark.parametrize(
    ("candidate", "deployed", "because"),
    [
        (None, None, "no vote could be held out"),
        (None, evaluation(), "no vote could be held out"),
        (evaluation(), None, "the deployed version could not be measured"),
        (evaluation(), evaluation(loss=math.nan), "the deployed version could not be measured"),
        (counted(3, 2), counted(3, 2), "there are 5 held-out votes and the gate needs 6"),
        (counted(10, 0), counted(10, 0), "10 are up and 0 down, and the gate needs 2 of each"),
        (counted(1, 9), counted(1, 9), "1 are up and 9 down, and the gate needs 2 of each"),
    ],
)
def test_an_admin_decides_without_evidence(
    candidate: Evaluation | None, deployed: Evaluation | None, because: str
) -> None:
    found = verdict(candidate, deployed)
    assert found.outcome == "not_enough_evidence"
    assert because in found.reason
    assert found.reason.endswith("An admin decides.")


def test_enough_votes_is_enough() -> None:
    assert verdict(counted(2, 4), counted(2, 4)).outcome == "pass"


def test_a_few_votes_ranked_all_wrong_by_chance_are_no_proof() -> None:
    # Of rewards that say nothing, 5 up and 5 down give an AUC within 0.5 ± 0.19 two times in three.
    assert chance_standard_error(5, 5) == pytest.approx(math.sqrt(11 / 300))
    few = evaluation(auc=0.35, auc_standard_error=0.0)
    assert verdict(few, evaluation(auc=0.5)).outcome == "pass"
    many = evaluation(auc=0.35, auc_standard_error=0.0, **MANY)
    assert verdict(many, evaluation(auc=0.5, **MANY)).outcome == "fail"


def test_measures_are_json() -> None:
    for found in (
        verdict(evaluation(loss=math.nan, auc=math.nan), evaluation()),
        verdict(None, evaluation()),
        verdict(evaluation(), evaluation()),
    ):
        assert set(json.loads(json.dumps(found.measures, allow_nan=False))) == {
            "finite",
            "candidate",
            "deployed",
            "loss_tolerance",
            "auc_tolerance",
        }


@cache
def taste() -> Taste:
    """A taste for long replies, learned from 40 votes."""
    draw = np.random.default_rng(0)
    lengths = np.arange(40.0)
    states = draw.normal(size=(2, 40, 4)).astype(np.float32)
    features = [
        Features({"words": n}, *state) for n, state in zip(lengths, zip(*states, strict=True), strict=True)
    ]
    found = learn_taste(features, (lengths > 20).tolist(), [str(n) for n in range(40)])
    assert isinstance(found, Taste)
    return found


def replies(candidate: float, deployed: float, learned: Taste | Abstention | None = None) -> ReplyEvidence:
    """40 replies each; so many of them would surely be liked."""

    def side(share: float) -> Sampled:
        values = np.zeros(40)
        values[: round(40 * share)] = 1.0
        same = {name: np.ones(40) for name in ("words", "finished")}
        zero = ("empty", "repetition", "other_language", "refusal", "log_probability", "general", "kl")
        same |= {name: np.zeros(40) for name in zero}
        return Sampled(**same, distinct_2grams=0.8, taste=None if isinstance(learned, Abstention) else values)

    base = side(deployed)
    return ReplyEvidence(base, base, {1.0: side(candidate)}, 1.0, learned or taste())


@pytest.mark.parametrize(
    ("candidate", "outcome", "reason"),
    [
        (
            0.8,
            "pass",
            "Better with probability 1.00: of its replies to 40 prompts 80% would be liked, of the",
        ),
        (0.525, "not_enough_evidence", "and 0.9 is needed"),
        (0.5, "not_enough_evidence", "Better with probability 0.50"),
        (0.2, "fail", "Worse with probability 1.00"),
    ],
)
def test_replies_must_be_better_with_confidence(candidate: float, outcome: str, reason: str) -> None:
    found = judge_replies(replies(candidate, 0.5), SETTINGS)
    assert (found.outcome, reason in found.reason) == (outcome, True)
    json.dumps(found.measures)


def test_two_looks_err_no_more_often_than_one() -> None:
    """With a probability of 0.94, one look is enough; of two, each asks for half of the error."""
    evidence = replies(0.55, 0.5)
    assert judge_replies(evidence, SETTINGS).outcome == "pass"
    found = judge_replies(dataclasses.replace(evidence, looks=2), SETTINGS)
    assert (found.outcome, "0.95 is needed" in found.reason) == ("not_enough_evidence", True)


def test_a_version_that_is_probably_better_becomes_a_canary_where_that_is_set() -> None:
    settings = SETTINGS.model_copy(update={"gate_canary_share": 0.1, "gate_canary_confidence": 0.6})
    assert judge_replies(replies(0.525, 0.5), settings).outcome == "canary"
    assert judge_replies(replies(0.5, 0.5), settings).outcome == "not_enough_evidence"


def test_without_a_taste_an_admin_decides() -> None:
    found = judge_replies(replies(0.9, 0.1, Abstention("There are 3 votes.")), SETTINGS)
    assert found.outcome == "not_enough_evidence"
    assert found.reason == "Not enough evidence. There are 3 votes. An admin decides."


@pytest.mark.parametrize(
    ("candidate", "won", "outcome", "reason"),
    [
        (0.8, 30, "pass", "The judge j prefers its replies to 30 prompts and the deployed version's to 10"),
        (0.8, 20, "pass", "20 prompts and the deployed version's to 20, with 0 ties (a share of 50%, 35% to"),
        (0.8, 5, "not_enough_evidence", "But the judge j prefers its replies to 5 prompts"),
        (0.2, 40, "fail", "Worse with probability 1.00"),
        (0.5, 40, "not_enough_evidence", "An admin decides. The judge j prefers"),
        (None, 30, "pass", "Better with probability 1.00: the judge j prefers"),
        (None, 20, "not_enough_evidence", "There are 3 votes. An admin decides. The judge j"),
        (None, 5, "fail", "Worse with probability 1.00: the judge j"),
    ],
)
def test_a_judge_holds_what_it_does_not_like_and_decides_where_there_is_no_taste(
    candidate: float | None, won: int, outcome: str, reason: str
) -> None:
    abstention = None if candidate is not None else Abstention("There are 3 votes.")
    evidence = replies(candidate or 0.5, 0.5, abstention)
    judge = Preference("j", [1.0] * won + [0.0] * (40 - won))
    found = judge_replies(dataclasses.replace(evidence, judge=judge), SETTINGS)
    assert (found.outcome, reason in found.reason) == (outcome, True), found.reason
    counted = {"judge": "j", "won": won, "ties": 0, "lost": 40 - won, "failed": 0}
    share = found.measures["replies"]["judge"].pop("share")
    assert found.measures["replies"]["judge"] == counted
    assert share["low"] <= share["mean"] == won / 40 <= share["high"]


def test_a_judge_that_mostly_gave_no_answer_has_no_say() -> None:
    judge = Preference("j", [0.0] * 10, failed=30)
    found = judge_replies(dataclasses.replace(replies(0.8, 0.5), judge=judge), SETTINGS)
    assert found.outcome == "pass"
    assert found.reason.endswith("The judge j gave no answer to most prompts.")


def test_text_that_has_suffered_at_every_strength_fails_though_it_is_liked() -> None:
    evidence = replies(1.0, 0.1)
    spoiled = dataclasses.replace(evidence.candidates[1.0], repetition=np.full(40, 0.5))
    found = judge_replies(dataclasses.replace(evidence, candidates={1.0: spoiled}, strength=0.0), SETTINGS)
    assert found.outcome == "fail"
    assert "has suffered, even at the strength 1: share of repeated 4-grams 0.5 against 0." in found.reason
