"""Decides whether a candidate may be deployed. Pure.

The evidence is sampled replies, if there are any: they must be better by the learned taste and must not have
suffered. Otherwise it is two evaluations on the same held-out votes: the candidate must not be worse.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from storage.settings import Settings
from trainer.gate.comparison import Sampled, find_harms, needed_confidence, probability_better
from trainer.gate.measures import MEASURES, Evaluation
from trainer.judge.asking import Preference
from trainer.taste.taste import Abstention, Taste

# With a single vote of one kind the AUC depends on that vote alone, not on the model.
MIN_OF_EACH_KIND = 2


@dataclass(frozen=True)
class Verdict:
    """The outcome, a sentence for people, and the figures behind it."""

    outcome: Literal["pass", "canary", "fail", "not_enough_evidence"]
    reason: str
    measures: dict[str, Any]


def judge(
    candidate: Evaluation | None, deployed: Evaluation | None, *, finite: bool, settings: Settings
) -> Verdict:
    """Compare a candidate with the deployed version.

    `finite` says whether all weights of the adapter are finite. An evaluation is None if no rows were held
    out or the version could not be measured. In that case, or with too few held-out votes or votes of one
    kind only, the verdict is `not_enough_evidence` and an admin decides. The candidate fails if a measure is
    worse than the deployed version's by more than its tolerance and by more than the larger of the two
    standard errors.
    """
    tolerances: dict[str, float] = {
        one.name: getattr(settings, f"gate_{one.name}_tolerance") for one in MEASURES
    }
    measures: dict[str, Any] = {
        "finite": finite,
        "candidate": candidate.to_dict() if candidate else None,
        "deployed": deployed.to_dict() if deployed else None,
        **{f"{name}_tolerance": value for name, value in tolerances.items()},
    }
    if not finite or (candidate and not candidate.is_finite):
        what = "log-probabilities on held-out votes" if finite else "weights of the adapter"
        reason = f"The {what} are not all finite numbers; lower THUMBLOOP_LEARNING_RATE and train again."
        return Verdict("fail", reason, measures)
    lack = _lack_of_evidence(candidate, deployed, settings)
    if lack:
        return Verdict("not_enough_evidence", f"Not enough evidence: {lack}. An admin decides.", measures)

    assert candidate is not None
    faults, shown = [], []
    for one in MEASURES:
        new, old = getattr(candidate, one.name), getattr(deployed, one.name)
        tolerance, by = tolerances[one.name], f"{tolerances[one.name]:g}"
        if one.error is not None:
            tolerance = max(tolerance, getattr(candidate, one.error), getattr(deployed, one.error))
            by = f"{tolerance:.{one.digits}f}"
        measures[f"{one.name}_tolerance"] = tolerance
        shown.append(f"{one.title} {new:.{one.digits}f} against {old:.{one.digits}f}")
        if new < old - tolerance if one.more_is_better else new > old + tolerance:
            faults.append(f"{shown[-1]}, worse by more than {by}")
    on = f"on {candidate.votes} held-out votes ({candidate.n_desirable} up, {candidate.n_undesirable} down)"
    if faults:
        return Verdict("fail", f"Worse than the deployed version {on}: {'; '.join(faults)}.", measures)
    return Verdict("pass", f"Not worse than the deployed version {on}: {', '.join(shown)}.", measures)


@dataclass(frozen=True)
class ReplyEvidence:
    """Sampled replies of three versions to the same prompts; those of the candidate by its strength.

    `strength` is the one chosen, 0 if every one does harm. Without a deployed adapter, `deployed` is `base`.
    `looks` is how often the evidence may be looked at.
    """

    base: Sampled
    deployed: Sampled
    candidates: dict[float, Sampled]
    strength: float
    taste: Taste | Abstention
    looks: int = 1
    judge: Preference | None = None  # of the candidate's replies at that strength to the deployed version's

    @property
    def prompts(self) -> int:
        """The number of prompts that all versions replied to."""
        return len(self.base.words)

    def to_dict(self) -> dict[str, Any]:
        return {
            "strength": self.strength,
            "strengths": {f"{strength:g}": one.to_dict() for strength, one in self.candidates.items()},
            "base": self.base.to_dict(),
            "deployed": self.deployed.to_dict(),
            "taste": self.taste.to_dict(),
            **({"judge": self.judge.to_dict()} if self.judge is not None else {}),
        }


def judge_replies(evidence: ReplyEvidence, settings: Settings) -> Verdict:
    """Deploy what people would like better with the confidence `gate_confidence`, and only unharmed text.

    Whatever is worse with that confidence, or does harm at every strength, fails. In between an admin
    decides; or, where `gate_canary_share` is set and the candidate is better with the probability
    `gate_canary_confidence`, it becomes a canary. A judge that surely prefers the deployed version's replies
    leaves the decision to an admin; without a taste, it decides.
    """
    measures: dict[str, Any] = {"replies": evidence.to_dict()}
    if not evidence.strength:
        least = min(evidence.candidates)
        harms = "; ".join(find_harms(evidence.candidates[least], evidence.base, settings))
        reason = f"The text of its replies has suffered, even at the strength {least:g}: {harms}."
        return Verdict("fail", reason, measures)
    verdict = _by_taste(evidence, settings, measures)
    return verdict if evidence.judge is None else _with_judge(verdict, evidence.judge, evidence, settings)


def _with_judge(verdict: Verdict, judge: Preference, evidence: ReplyEvidence, settings: Settings) -> Verdict:
    """A judge may hold what the taste would deploy, and decides where there is no taste."""
    points = np.array(judge.points)
    if judge.failed >= len(points):
        return replace(
            verdict, reason=f"{verdict.reason} The judge {judge.judge} gave no answer to most prompts."
        )
    sure = probability_better(points, np.full(len(points), 0.5))
    verdict.measures["judge_probability_better"] = sure
    counts = judge.to_dict()
    said = (
        f"the judge {judge.judge} prefers its replies to {counts['won']} prompts and the deployed version's "
        f"to {counts['lost']}, with {counts['ties']} ties (a share of {counts['share']['mean']:.0%}, "
        f"{counts['share']['low']:.0%} to {counts['share']['high']:.0%})"
    )
    if isinstance(evidence.taste, Abstention):
        if sure >= settings.gate_confidence:
            return replace(verdict, outcome="pass", reason=f"Better with probability {sure:.2f}: {said}.")
        if sure <= 1 - settings.gate_confidence:
            return replace(verdict, outcome="fail", reason=f"Worse with probability {1 - sure:.2f}: {said}.")
    elif verdict.outcome in ("pass", "canary") and sure <= 1 - settings.gate_confidence:
        reason = f"{verdict.reason} But {said}. An admin decides."
        return replace(verdict, outcome="not_enough_evidence", reason=reason)
    return replace(verdict, reason=f"{verdict.reason} {said[0].upper()}{said[1:]}.")


def _by_taste(evidence: ReplyEvidence, settings: Settings, measures: dict[str, Any]) -> Verdict:
    new, old = evidence.candidates[evidence.strength].taste, evidence.deployed.taste
    if isinstance(evidence.taste, Abstention) or new is None or old is None:
        why = evidence.taste.reason if isinstance(evidence.taste, Abstention) else ""
        reason = f"Not enough evidence. {why} An admin decides."
        return Verdict("not_enough_evidence", reason, measures)
    sure = probability_better(new, old)
    measures["probability_better"] = sure
    found = (
        f"of its replies to {len(new)} prompts {new.mean():.0%} would be liked, of the deployed version's "
        f"{old.mean():.0%}, by what {evidence.taste.quality.votes} votes say (AUC "
        f"{evidence.taste.quality.auc:.2f} on unseen ones)"
    )
    confidence = needed_confidence(settings, evidence.looks)
    if sure >= confidence:
        return Verdict("pass", f"Better with probability {sure:.2f}: {found}.", measures)
    if sure <= 1 - confidence:
        return Verdict("fail", f"Worse with probability {1 - sure:.2f}: {found}.", measures)
    unsure = f"Better with probability {sure:.2f}, and {confidence:g} is needed: {found}."
    if settings.gate_canary_share and sure >= settings.gate_canary_confidence:
        return Verdict("canary", unsure, measures)
    return Verdict("not_enough_evidence", f"{unsure} An admin decides.", measures)


def lack_of_evidence(up: int, down: int, *, needed: int) -> str | None:
    """Why this many held-out votes are not enough, or None if they are."""
    if up + down < needed:
        return (
            f"there are {up + down} held-out votes and the gate needs {needed}; collect more votes, or lower "
            f"THUMBLOOP_GATE_MIN_VOTES"
        )
    if min(up, down) < MIN_OF_EACH_KIND:
        return (
            f"of the {up + down} held-out votes {up} are up and {down} down, and the gate needs "
            f"{MIN_OF_EACH_KIND} of each; collect more"
        )
    return None


def _lack_of_evidence(
    candidate: Evaluation | None, deployed: Evaluation | None, settings: Settings
) -> str | None:
    if candidate is None:
        return "no vote could be held out to measure the new version; collect votes in more chats"
    if deployed is None or not deployed.is_finite:
        return "the deployed version could not be measured on the held-out votes"
    return lack_of_evidence(candidate.n_desirable, candidate.n_undesirable, needed=settings.gate_min_votes)
