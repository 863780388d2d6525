"""Decides whether a candidate may be deployed, from two evaluations on the same held-out votes. Pure."""

from dataclasses import dataclass
from typing import Any, Literal

from storage.settings import Settings
from trainer.gate.measures import MEASURES, Evaluation

# With a single vote of one kind the AUC depends on that vote alone, not on the model.
MIN_OF_EACH_KIND = 2


@dataclass(frozen=True)
class Verdict:
    """The outcome, a sentence for people, and the figures behind it."""

    outcome: Literal["pass", "fail", "not_enough_evidence"]
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
