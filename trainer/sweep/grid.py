"""Defines the points of a sweep, their measures, and the ranking. Pure.

The KTO loss is not a measure: its value depends on β, and DPO and IPO have other losses.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, get_args

from storage.errors import InvalidInput
from storage.settings import Settings

Loss = Literal["kto", "apo_zero_unpaired", "dpo", "ipo"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
UNPAIRED: tuple[Loss, ...] = ("kto", "apo_zero_unpaired")  # what runs train with; the others need pairs
GridName = Literal["full", "small"]
Sampler = Literal["grid", "random", "tpe"]
Ranking = Literal["auc", "judge"]


@dataclass(frozen=True)
class Measure:
    """One number of a result. If Evaluation has a field of this name, it is read from there."""

    name: str  # in results.csv and in the API
    title: str = ""  # of its column on terminals and pages, if they show it
    format: str = ""
    about: str = ""  # for the API, if it shows it
    error: str = ""  # the measure that is its standard error


# r is log π − log π_ref of a reply, in nats.
MEASURES = (
    Measure("auc", "AUC", ".3f", "Of r against the label, on the held-out votes.", "auc_standard_error"),
    Measure("auc_standard_error", about="By bootstrap over chats."),
    Measure("margin", "margin", "+.2f", "Mean r of liked replies less that of disliked ones, in nats."),
    Measure("liked_change", "liked replies", "+.2f", "How much likelier liked replies became: their mean r."),
    Measure("liked_standard_error"),  # of that mean, over replies
    Measure("z0", "z0", ".2f", "An estimate of the KL divergence from the base model, in nats."),
    Measure(
        "judge",
        "rating",
        ".2f",
        "The judge's mean rating of sampled replies, 1 to 5.",
        "judge_standard_error",
    ),
    Measure("judge_standard_error", about="Of that mean, over prompts."),
    Measure("judge_low", about="Of its 95 % interval, by bootstrap over prompts."),
    Measure("judge_high", about="Of its 95 % interval."),
    Measure("judge_failed", about="Replies that the judge gave no rating, or none that could be read."),
)
NEEDED_TO_RANK: dict[Ranking, tuple[str, ...]] = {
    "auc": ("auc", "auc_standard_error", "liked_change", "z0"),
    "judge": ("judge", "judge_standard_error"),
}


def shown_measures(*, judged: bool) -> list[Measure]:
    """The measures that tables show; `judged` says whether a judge rated the points."""
    return [one for one in MEASURES if one.title and (judged or one.name != "judge")]


def table_cell(measure: Measure, value_of: Callable[[str], float | None]) -> str:
    """The table cell of a measure, with its standard error if it has one."""
    value, error = value_of(measure.name), value_of(measure.error) if measure.error else None
    cell = "" if value is None else format(value, measure.format)
    return cell if error is None else f"{cell} ± {error:{measure.format}}"


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
    """Every combination of β, loss and learning rate. Raises InvalidInput for an invalid value.

    With a `sampler` other than "grid", `draws` points are drawn between the smallest and largest numbers.
    """

    betas: tuple[float, ...]
    losses: tuple[Loss, ...]
    learning_rates: tuple[float, ...]
    sampler: Sampler = "grid"
    draws: int | None = None

    def __post_init__(self) -> None:
        for name in ("betas", "losses", "learning_rates"):
            values = getattr(self, name)
            if name == "losses":
                bad, rule = set(values) - {*LOSSES}, f"the losses are {', '.join(LOSSES)}"
            else:
                bad, rule = {one for one in values if not 0 < one < math.inf}, "give numbers above 0"
            fault = ""
            if not values:
                fault = " has no value; leave it out for the values of the grid"
            elif len(set(values)) < len(values):
                fault = f" {','.join(map(str, values))} has a value twice"
            elif bad:
                fault = f" {','.join(map(str, bad))}: {rule}"
            if fault:
                raise InvalidInput(f"--{name.replace('_', '-')}{fault}.", field=name)
        if (self.draws is None) != (self.sampler == "grid"):
            reason = "--points is for --sampler random or tpe; a grid has all of its points."
            raise InvalidInput(reason, field="points")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Grid":
        """From JSON, where tuples are lists."""
        known: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        return cls(**known)

    def __len__(self) -> int:
        return len(self.points()) if self.draws is None else self.draws

    def points(self) -> list[Point]:
        """The points in training order, or an empty list if they are drawn.

        Each β comes with all losses, so that an unfinished sweep can compare them.
        """
        every = product(self.learning_rates, self.betas, self.losses)
        return [Point(loss, beta, rate) for rate, beta, loss in every if self.draws is None]


def named_grid(name: GridName, settings: Settings) -> Grid:
    """The grid `full`: the study's β, every loss, three learning rates. The grid `small`: a first look."""
    if name == "small":
        return Grid((0.1, 0.3, 0.5), ("kto", "apo_zero_unpaired"), (settings.learning_rate,))
    return Grid((0.01, *(tenth / 10 for tenth in range(1, 10))), LOSSES, (2e-4, 5e-5, 1e-4))


@dataclass(frozen=True)
class Result:
    """Measures of a point on the held-out votes, such as `result["auc"]`; MEASURES has their names.

    The numbers are None if the point diverged or the held-out votes are of one kind.
    """

    point: Point
    diverged: str = ""  # why, or ''
    seconds: float = 0.0  # of the training
    measures: Mapping[str, float | None] = field(default_factory=dict)

    def __getitem__(self, measure: str) -> Any:  # a number or None
        return self.measures.get(measure)

    def is_sound(self, by: Ranking = "auc") -> bool:
        """Whether it can be ranked."""
        return not self.diverged and all(
            (value := self[name]) is not None and math.isfinite(value) for name in NEEDED_TO_RANK[by]
        )

    def may_win(self, by: Ranking = "auc") -> bool:
        """Whether it can be ranked and, if ranked by AUC, its liked replies did not become less likely."""
        return self.is_sound(by) and (by == "judge" or not self.fell)

    @property
    def fell(self) -> bool:
        """Whether liked replies became less likely, by more than the standard error of that change."""
        change = self["liked_change"]
        return change is not None and change < -(self["liked_standard_error"] or 0.0)

    @property
    def state(self) -> Literal["measured", "fell", "diverged"]:
        return "diverged" if self.diverged else "fell" if self.fell else "measured"


def rank(results: Iterable[Result], by: Ranking = "auc") -> list[Result]:
    """Rank the results, best first.

    By AUC: those within one standard error of the best AUC are tied; of the rest, those
    within one standard error of the best of them are tied, and so on. Among ties, the larger `liked_change`
    comes first, then the smaller z0. Points whose liked replies became less likely come after all others,
    because a margin can grow while both kinds fall. Results that cannot be ranked come last: diverged, not
    finite, or without an AUC.

    By the judge's rating: likewise, but among ties the larger AUC comes first, and the likelihood
    of old replies does not matter, since the judge read new ones.
    """
    every = list(results)
    return [
        *_by_groups([result for result in every if result.may_win(by)], by),
        *_by_groups([result for result in every if result.is_sound(by) and not result.may_win(by)], by),
        *(result for result in every if not result.is_sound(by)),
    ]


def winner(
    ranked: Sequence[Result], by: Ranking = "auc", *, losses: Sequence[Loss] = LOSSES
) -> Result | None:
    """The first result that may win."""
    return next((r for r in ranked if r.may_win(by) and r.point.loss in losses), None)


def is_above_chance(result: Result) -> bool:
    """Whether its AUC exceeds 0.5, that of the base model, by more than one standard error."""
    return result.is_sound() and _least(result, "auc") > 0.5


def is_above_base(result: Result, base: Mapping[str, float | None]) -> bool:
    """Whether its rating exceeds the base model's by more than one standard error of the difference."""
    mean, error = base["judge"], base["judge_standard_error"]
    if mean is None or not result.is_sound("judge"):
        return False
    return bool(result["judge"] - mean > math.hypot(result["judge_standard_error"], error or 0.0))


def _by_groups(results: Sequence[Result], by: Ranking) -> list[Result]:
    left = sorted(results, key=lambda result: -result[by])
    ranked: list[Result] = []
    while left:
        tied = [result for result in left if result[by] >= _least(left[0], by)]
        ranked += sorted(tied, key=lambda result: (*_ties(result, by), result.point.name))
        left = left[len(tied) :]
    return ranked


def _ties(result: Result, by: Ranking) -> tuple[float, ...]:
    """What decides between results with the same measure, smallest first."""
    return (-result["liked_change"], result["z0"]) if by == "auc" else (-(result["auc"] or 0.0),)


def _least(result: Result, by: Ranking) -> float:
    least: float = result[by] - result[f"{by}_standard_error"]
    return least
