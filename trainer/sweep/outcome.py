"""A sweep so far: its winner, and whether there is enough evidence for it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.gate.decision import lack_of_evidence
from trainer.sweep.grid import UNPAIRED, Point, Ranking, Result, is_above_base, is_above_chance, winner


@dataclass(frozen=True)
class Sweep:
    """A sweep so far. `missing` has the remaining points if they are known in advance.

    `base` has the judge's rating of the base model's replies, by the names of MEASURES, if there is a judge.
    """

    name: str
    plan: Mapping[str, Any]
    ranked: list[Result]
    missing: list[Point]
    left: int  # points still to be made
    base: Mapping[str, float | None] | None = None

    @property
    def by(self) -> Ranking:
        """The measure that ranks the points."""
        return ranking_of(self.plan)

    @property
    def judge(self) -> str | None:
        return (self.plan["identity"].get("judge") or {}).get("name")

    @property
    def winner(self) -> Result | None:
        return winner(self.ranked, self.by)

    @property
    def best_for_runs(self) -> Result | None:
        """The best point with a loss that training runs support; they train on votes, not on pairs."""
        return winner(self.ranked, self.by, losses=UNPAIRED)

    def doubts_of(self, best: Result) -> str | None:
        """Why this result is not enough evidence, or None if it is."""
        if self.by == "judge":
            if self.base is not None and is_above_base(best, self.base):
                return None
            return (
                f"the best rating, {best['judge']:.2f} ± {best['judge_standard_error']:.2f}, is not above "
                f"the base model's by a standard error; collect more votes, or raise THUMBLOOP_GATE_PROMPTS"
            )
        held_out = self.plan["held_out"]
        lack = lack_of_evidence(held_out["up"], held_out["down"], needed=self.plan["gate_min_votes"])
        if lack is None and not is_above_chance(best):
            lack = (
                f"the best AUC, {best['auc']:.3f} ± {best['auc_standard_error']:.3f}, is not above 0.5 by a "
                f"standard error, so no point was seen to separate liked replies from disliked ones; "
                f"collect more votes"
            )
        return lack

    def verdict(self) -> str:
        """The outcome, in a sentence or two."""
        if not self.ranked:
            return f"None of {self.left} points has been made."
        of = f"{len(self.ranked)} of {len(self.ranked) + self.left} points"
        if self.winner is not None:
            doubts = self.doubts_of(self.winner)
            best = f"Best of {of}: {self.winner.point.name}."
            if self.base is not None and self.base["judge"] is not None:
                best += f" {self.judge} rates the base model's replies {self.base['judge']:.2f}."
            return f"{best} Not enough evidence: {doubts}." if doubts else best
        if self.by == "judge":
            return f"No winner among {of}: each diverged, or too few of its replies were rated."
        if not all(self.plan["held_out"].values()):
            return "Nothing can be ranked: the held-out votes are not of both kinds; collect more."
        return f"No winner among {of}: each diverged or made liked replies less likely."


def ranking_of(plan: Mapping[str, Any] | None) -> Ranking:
    """The measure that ranks the points of a plan. Plans of earlier versions name none."""
    by: Ranking = (plan or {}).get("identity", {}).get("rank", "auc")
    return by
