"""Measures of a version on held-out rows, and the table of those that the gate compares. Pure.

To add a measure to the gate, add a field to `Evaluation`, a row to `MEASURES`, and a setting for its
tolerance. Verdicts and the admin page read the table.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.taste.auc import chance_standard_error


@dataclass(frozen=True)
class Evaluation:
    """Measures of one version; r is log π − log π_ref summed over a reply, in nats, without β."""

    loss: float  # mean over the rows of w·λ·(1 − σ(…)), w being the row's own weight
    auc: float | None  # of r against the label; None without both kinds
    auc_standard_error: float | None  # bootstrap over chats
    margin: float | None  # mean r of liked replies − mean r of disliked ones
    desirable_log_probability: float | None  # mean log π of the liked replies, in nats a reply
    n_desirable: int
    n_undesirable: int
    z0: float
    rewards: list[float] = field(repr=False)  # r of each row, in the order of the rows
    # Sums over tokens rank by length where people like short or long replies; these two do not.
    auc_per_token: float | None = None  # of r divided by the reply's tokens
    auc_without_length: float | None = None  # of what a linear regression of r on the tokens leaves

    @property
    def votes(self) -> int:
        return self.n_desirable + self.n_undesirable

    @property
    def auc_error(self) -> float:
        """The bootstrap's standard error, but at least that of uninformative rewards.

        The bootstrap alone gives 0 when a few votes happen to be ranked all right or all wrong.
        """
        return max(
            self.auc_standard_error or 0.0, chance_standard_error(self.n_desirable, self.n_undesirable)
        )

    @property
    def is_finite(self) -> bool:
        return all(map(math.isfinite, (self.loss, self.z0, *self.rewards)))

    def to_dict(self) -> dict[str, Any]:
        """As JSON: without the rewards of single rows, and with None for values that are not finite."""
        values = asdict(self)
        del values["rewards"]
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }


@dataclass(frozen=True)
class Measure:
    """A figure that must not get worse by more than `gate_NAME_tolerance` and its standard error."""

    name: str  # the field of `Evaluation`
    title: str
    column: str  # on the admin page
    digits: int
    more_is_better: bool
    error: str | None = None  # the property of `Evaluation` that is its standard error


MEASURES = (
    Measure("loss", "KTO loss", "Held-out loss", 4, more_is_better=False),
    Measure("auc", "AUC", "AUC", 3, more_is_better=True, error="auc_error"),
)
