"""May the candidate be deployed? Pure: two evaluations on the same held-out votes in, a verdict out."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from storage.settings import Settings

if TYPE_CHECKING:  # it brings torch, which a verdict does not need
    from trainer.gate.evaluate import Evaluation

Outcome = Literal["pass", "fail", "not_enough_evidence"]


# One vote of a kind makes an AUC of 0 or 1 and nothing between: that judges the vote, not the model.
MIN_OF_EACH_KIND = 2


@dataclass(frozen=True)
class Verdict:
    """The outcome, the sentence for people, and the figures that it rests on."""

    outcome: Outcome
    reason: str
    measures: dict[str, Any]


def judge(
    candidate: "Evaluation | None", deployed: "Evaluation | None", *, finite: bool, settings: Settings
) -> Verdict:
    """Compare a candidate with the deployed version.

    `finite` says whether every weight of the adapter is a finite number. An evaluation is None where
    nothing was held out or it could not be made. Then, and where the held-out votes are too few or of
    one kind, an admin has to decide. The candidate fails if its loss is higher than the deployed
    version's by more than the tolerance, or its AUC lower by more than the tolerance and by more than
    the largest of the standard errors.
    """
    measures: dict[str, Any] = {
        "finite": finite,
        "candidate": candidate.to_dict() if candidate else None,
        "deployed": deployed.to_dict() if deployed else None,
        "loss_tolerance": settings.gate_loss_tolerance,
        "auc_tolerance": settings.gate_auc_tolerance,
    }
    if not finite or (candidate and not _is_finite(candidate)):
        what = "log-probabilities on held-out votes" if finite else "weights of the adapter"
        reason = f"The {what} are not all finite numbers; lower THUMBLOOP_LEARNING_RATE and train again."
        return Verdict("fail", reason, measures)
    lack = _lack_of_evidence(candidate, deployed, settings)
    if lack:
        return Verdict("not_enough_evidence", f"Not enough evidence: {lack}. An admin decides.", measures)

    assert candidate and deployed and candidate.auc is not None and deployed.auc is not None  # noqa: PT018
    auc_tolerance = max(
        settings.gate_auc_tolerance,
        candidate.auc_standard_error or 0,
        deployed.auc_standard_error or 0,
        chance_standard_error(candidate.n_desirable, candidate.n_undesirable),
    )
    measures["auc_tolerance"] = auc_tolerance
    loss = f"KTO loss {candidate.loss:.4f} against {deployed.loss:.4f}"
    auc = f"AUC {candidate.auc:.3f} against {deployed.auc:.3f}"
    faults = []
    if candidate.loss > deployed.loss + settings.gate_loss_tolerance:
        faults.append(f"{loss}, worse by more than {settings.gate_loss_tolerance:g}")
    if candidate.auc < deployed.auc - auc_tolerance:
        faults.append(f"{auc}, worse by more than {auc_tolerance:.3f}")
    on = f"on {candidate.votes} held-out votes ({candidate.n_desirable} up, {candidate.n_undesirable} down)"
    if faults:
        return Verdict("fail", f"Worse than the deployed version {on}: {'; '.join(faults)}.", measures)
    return Verdict("pass", f"Not worse than the deployed version {on}: {loss}, {auc}.", measures)


def chance_standard_error(n_desirable: int, n_undesirable: int) -> float:
    """Standard error of the AUC of rewards that say nothing (Mann and Whitney 1947).

    The bootstrap's own error is 0 where few votes happen to be ranked all right or all wrong; this one
    knows how few they are.
    """
    votes = n_desirable + n_undesirable
    return math.sqrt((votes + 1) / (12 * n_desirable * n_undesirable))


def _is_finite(evaluation: "Evaluation") -> bool:
    return all(math.isfinite(value) for value in (evaluation.loss, evaluation.z0, *evaluation.rewards))


def _lack_of_evidence(
    candidate: "Evaluation | None", deployed: "Evaluation | None", settings: Settings
) -> str | None:
    if candidate is None:
        return "no vote could be held out to measure the new version; collect votes in more chats"
    if deployed is None or not _is_finite(deployed):
        return "the deployed version could not be measured on the held-out votes"
    if candidate.votes < settings.gate_min_votes:
        return (
            f"there are {candidate.votes} held-out votes and the gate needs {settings.gate_min_votes}; "
            f"collect more votes, or lower THUMBLOOP_GATE_MIN_VOTES"
        )
    if min(candidate.n_desirable, candidate.n_undesirable) < MIN_OF_EACH_KIND:
        return (
            f"of the {candidate.votes} held-out votes {candidate.n_desirable} are up and "
            f"{candidate.n_undesirable} down, and the gate needs {MIN_OF_EACH_KIND} of each; collect more"
        )
    if deployed.votes != candidate.votes:
        return (
            f"the deployed version was measured on {deployed.votes} held-out votes "
            f"and the new one on {candidate.votes}"
        )
    return None
