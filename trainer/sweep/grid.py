"""The points of a sweep, what is measured of each, and which is best. Pure: knows no model and no file.

The KTO loss is no such measure: its value depends on β, and DPO and IPO have another one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal, get_args

from storage.errors import InvalidInput
from storage.settings import Settings

Loss = Literal["kto", "apo_zero_unpaired", "dpo", "ipo"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
PAIRED: tuple[Loss, ...] = ("dpo", "ipo")  # on pairs of an up and a down reply; no run trains with these
GridName = Literal["full", "small"]


@dataclass(frozen=True)
class Point:
    """One training of a sweep."""

    loss: Loss
    beta: float
    learning_rate: float

    @property
    def name(self) -> str:
        return f"{self.loss}-beta-{self.beta!r}-lr-{self.learning_rate!r}"


@dataclass(frozen=True)
class Grid:
    """Every β with every loss and every learning rate; raises InvalidInput for a value that cannot be."""

    betas: tuple[float, ...]
    losses: tuple[Loss, ...]
    learning_rates: tuple[float, ...]

    def __post_init__(self) -> None:
        for field, values in asdict(self).items():
            option = f"--{field.replace('_', '-')}"
            if not values:
                raise InvalidInput(f"{option} names nothing; leave it out for the grid's own.", field=field)
            if len(set(values)) < len(values):
                raise InvalidInput(f"{option} {shown(values)} names a value twice.", field=field)
        if unknown := [loss for loss in self.losses if loss not in LOSSES]:
            raise InvalidInput(
                f"--losses {shown(unknown)}: there is no such loss; there are {', '.join(LOSSES)}.",
                field="losses",
            )
        for field, numbers in (("betas", self.betas), ("learning_rates", self.learning_rates)):
            if bad := [number for number in numbers if not 0 < number < math.inf]:
                raise InvalidInput(
                    f"--{field.replace('_', '-')} {shown(bad)}: these are numbers above 0.", field=field
                )

    def points(self) -> list[Point]:
        """In the order of training: each β with all losses, so that a sweep cut short compares these."""
        return [
            Point(loss, beta, rate)
            for rate, beta, loss in product(self.learning_rates, self.betas, self.losses)
        ]


def named_grid(name: GridName, settings: Settings) -> Grid:
    """full: the pref-tuning study's β, every loss, three learning rates. small: a first look."""
    if name == "small":
        return Grid((0.1, 0.3, 0.5), ("kto", "apo_zero_unpaired"), (settings.learning_rate,))
    return Grid((0.01, *(tenth / 10 for tenth in range(1, 10))), LOSSES, (5e-5, 2e-5, 1e-4))


@dataclass(frozen=True)
class Result:
    """What was measured of a point on the held-out votes; r is log π − log π_ref of a reply, in nats.

    The numbers are None where the point diverged, or where the held-out votes are of one kind.
    """

    point: Point
    diverged: str  # why, or ''
    auc: float | None = None  # of r against the label
    auc_standard_error: float | None = None  # bootstrap over chats
    margin: float | None = None  # mean r of the liked replies − mean r of the disliked ones
    liked_change: float | None = None  # mean r of the liked replies: how their log-probability changed
    liked_standard_error: float | None = None  # of that mean, over replies
    z0: float | None = None  # mean r of mismatched replies, at least 0: an estimate of the KL divergence
    seconds: float = 0.0  # of the training

    @property
    def is_sound(self) -> bool:
        """Whether it can be ranked at all."""
        return not self.diverged and all(
            value is not None and math.isfinite(value)
            for value in (self.auc, self.auc_standard_error, self.liked_change, self.z0)
        )

    @property
    def fell(self) -> bool:
        """Whether liked replies became less likely, by more than the standard error of that change."""
        return self.liked_change is not None and self.liked_change < -(self.liked_standard_error or 0.0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Result":
        return cls(**{**values, "point": Point(**values["point"])})


def rank(results: Iterable[Result]) -> list[Result]:
    """Best first.

    By AUC; points within one standard error of the best one's AUC are tied, and so are, of the rest, those
    within one standard error of the best of these, and so on. Of tied points the one whose liked replies
    became likelier comes first, then the one with the smaller z0. A point whose liked replies became less
    likely stands behind all whose did not: a margin can grow while both kinds fall. Behind these come the
    ones that cannot be ranked: diverged, not finite, or without an AUC.
    """
    every = list(results)
    sound = [result for result in every if result.is_sound]
    return [
        *_by_groups([result for result in sound if not result.fell]),
        *_by_groups([result for result in sound if result.fell]),
        *(result for result in every if not result.is_sound),
    ]


def winner(ranked: Sequence[Result], *, losses: Sequence[Loss] = LOSSES) -> Result | None:
    """The first that may win: ranked, with liked replies that did not become less likely."""
    return next((r for r in ranked if r.is_sound and not r.fell and r.point.loss in losses), None)


def is_above_chance(result: Result) -> bool:
    """Whether its AUC is above 0.5, that of the base model, by more than one standard error."""
    return bool(result.is_sound and _number(result.auc) - _number(result.auc_standard_error) > 0.5)


def shown(values: Iterable[object]) -> str:
    return ",".join(str(value) for value in values)


def _by_groups(results: Sequence[Result]) -> list[Result]:
    left = sorted(results, key=lambda result: -_number(result.auc))
    ranked: list[Result] = []
    while left:
        least = _number(left[0].auc) - _number(left[0].auc_standard_error)
        tied = [result for result in left if _number(result.auc) >= least]
        ranked += sorted(tied, key=lambda r: (-_number(r.liked_change), _number(r.z0), r.point.name))
        left = left[len(tied) :]
    return ranked


def _number(value: float | None) -> float:
    assert value is not None
    return value
