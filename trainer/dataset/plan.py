"""Checks whether a training may begin, and plans it: rows, weights, steps and tokens. Pure; no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from storage.errors import InvalidInput
from storage.examples.weights import Weights, class_weights
from storage.settings import Settings
from storage.settings.guard import guard_limits
from trainer.dataset.tokenise import LeftOut, TokenisedExample
from trainer.text import counted


@dataclass(frozen=True)
class TrainingPlan:
    """The figures of a planned training. `tokens` is per epoch."""

    rows: int
    up: int
    down: int
    held_out: int
    dropped: LeftOut
    weights: Weights
    steps: int
    batch_size: int
    processes: int
    rows_per_step: int
    tokens: int
    cut: int

    def lines(self) -> list[str]:
        """The plan as text, a sentence or two per line."""
        short = f"That is less than a micro-batch of {self.batch_size}: KTO's KL term is estimated on fewer."
        held_out = f", {self.held_out} held out" if self.held_out else ""
        together = f" ({self.processes} processes together)" if self.processes > 1 else ""
        cut = f"The end of {counted(self.cut, 'example')} is cut off: too long for a row."
        return [
            *self.dropped.lines(),
            *self.dropped.notes(),
            *([cut] if self.cut else []),
            f"{counted(self.rows, 'example')} to train on ({self.up} up, {self.down} down){held_out}; "
            f"weights {self.weights.desirable:.3f} up, {self.weights.undesirable:.3f} down.",
            *([short] if self.rows < self.batch_size else []),
            f"{counted(self.steps, 'step')} of {counted(self.rows_per_step, 'example')}{together}, "
            f"{self.tokens} tokens an epoch.",
        ]

    def refuse_few_rows(self) -> None:
        """Raise InvalidInput if there are fewer rows than a micro-batch."""
        if self.rows < self.batch_size:
            few = (
                f"{counted(self.rows, 'row')} to train on, fewer than a micro-batch of {self.batch_size}, on "
                f"which KTO estimates its KL term; add some, or lower THUMBLOOP_BATCH_SIZE."
            )
            raise InvalidInput(" ".join([few, *self.dropped.lines()]), field="batch_size")

    def to_metrics(self) -> dict[str, Any]:
        """The plan as JSON, for the run's row or a report."""
        counts = ("rows", "up", "down", "held_out", "steps", "processes", "tokens", "cut")
        return {
            "weights": self.weights.to_dict(),
            "dropped": dict(self.dropped),
            "changed": dict(self.dropped.changed),
            "plan": {name: getattr(self, name) for name in counts} | {"dropped_rows": self.dropped.names},
        }


def plan_training(
    rows: Sequence[TokenisedExample],
    dropped: LeftOut,
    settings: Settings,
    *,
    held_out: int = 0,
    processes: int = 1,
) -> TrainingPlan:
    """Plan a training on these rows, with at most one process per micro-batch.

    Raises InvalidInput unless there is at least one row of each kind.
    """
    ups = sum(row.label for row in rows)
    if not ups or ups == len(rows):
        found = f"{counted(len(rows), 'example')} can be trained on, all thumbs {'up' if ups else 'down'}"
        if not rows:
            found = "There are no examples that can be trained on"
        raise InvalidInput(" ".join([f"{found}, and KTO needs both kinds.", *dropped.lines()]))
    weights = class_weights(
        sum(row.weight for row in rows if row.label),
        sum(row.weight for row in rows if not row.label),
        settings.max_weight,
    )
    # Counted like transformers' Trainer: the last step of an epoch may be short, and so may the last epoch.
    micro_batches = math.ceil(len(rows) / settings.batch_size)
    processes = min(processes, micro_batches)
    steps_an_epoch = math.ceil(math.ceil(micro_batches / processes) / settings.gradient_accumulation)
    return TrainingPlan(
        rows=len(rows),
        up=ups,
        down=len(rows) - ups,
        held_out=held_out,
        dropped=dropped,
        weights=weights,
        steps=math.ceil(settings.epochs * steps_an_epoch),
        batch_size=settings.batch_size,
        processes=processes,
        rows_per_step=settings.batch_size * settings.gradient_accumulation * processes,
        tokens=sum(min(row.length, settings.max_length) for row in rows),
        cut=sum(row.length > settings.max_length for row in rows),
    )


@dataclass(frozen=True)
class Readiness:
    """The answer, and a sentence that explains it to people."""

    ready: bool
    reason: str


def check_readiness(
    *, ups: int, downs: int, voters: int, trainable_rows: int, settings: Settings
) -> Readiness:
    """Check the vote counts against the settings.

    `voters` is the number of people who voted. `trainable_rows` is the number of rows left after the hold-out
    and after dropping conversations that do not fit.
    """
    votes = f"{counted(ups, 'thumb')} up and {counted(downs, 'thumb')} down"
    people = counted(voters, "person", "people")
    lacks = []
    least = settings.min_votes_per_class
    if ups < least or downs < least:
        wanted = f"{max(least - ups, 0)} more up and {max(least - downs, 0)} more down"
        lacks.append(
            f"{votes}, but a run needs at least {least} of each: collect {wanted}, "
            f"or lower THUMBLOOP_MIN_VOTES_PER_CLASS"
        )
    fewest = guard_limits(settings).min_voters
    if voters < fewest:
        lacks.append(
            f"votes from {people}, but a run needs at least {fewest}: "
            f"ask more people to vote, or lower THUMBLOOP_MIN_VOTERS"
        )
    # KTO pairs each prompt with another row's reply, so one row alone cannot be trained on.
    if not lacks and trainable_rows < 2:
        lacks.append(
            f"{counted(trainable_rows, 'example')} to train on, but a run needs at least 2: {votes} are left "
            f"with that after the hold-out and without conversations longer than "
            f"{settings.max_length} tokens; collect more votes, or raise THUMBLOOP_MAX_LENGTH"
        )
    if lacks:
        return Readiness(False, f"Not enough feedback yet: {'; '.join(lacks)}.")
    return Readiness(True, f"Ready: {votes} from {people}, {counted(trainable_rows, 'example')} to train on.")
