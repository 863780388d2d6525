"""The weight of an example in the loss: by class, after the KTO paper, and by source.

Training, statistics, pages and dataset cards all use this rule and its wording.
"""

from dataclasses import asdict, dataclass

from storage.errors import InvalidInput
from storage.examples.filters import IMPORT, is_judged, is_of_source

# λ_D·n_D / (λ_U·n_U) is …
KEPT = "between 1 and 4/3 (KTO paper, arXiv 2402.01306, equation 8), as far as the largest weight allows"

# A corrected ratio lands a hundredth inside the interval, so that neither rounding nor TRL's own limit of
# 1.33 puts it outside.
LOWEST, HIGHEST = 1.01, 1.32


@dataclass(frozen=True)
class Weights:
    """λ_D, the weight of each desirable example, and λ_U, the weight of each undesirable one."""

    desirable: float
    undesirable: float

    def of(self, label: bool) -> float:
        return self.desirable if label else self.undesirable

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def class_weights(n_desirable: float, n_undesirable: float, cap: float) -> Weights:
    """Class weights that bring λ_D·n_D / (λ_U·n_U) into [1, 4/3] with the least correction.

    Weights are equal if n_D / n_U is already inside. Neither weight exceeds `cap` times the other, even if
    the ratio stays outside. The mean over the rows is 1: (λ_D·n_D + λ_U·n_U) / (n_D + n_U) = 1, so the
    learning rate means the same for any counts. If rows have their own weights, pass their sums as counts.
    Raises InvalidInput for a class without examples or a cap below 1.
    """
    for name, count in (("thumbs up", n_desirable), ("thumbs down", n_undesirable)):
        if not count > 0:
            raise InvalidInput(f"There are {count:g} {name}; weights need at least one of each kind.")
    if not cap >= 1:
        raise InvalidInput(f"The largest weight ratio is {cap}; it must be at least 1.", field="max_weight")
    if n_desirable < n_undesirable:
        ratio = min(LOWEST * n_undesirable / n_desirable, cap)
    elif 3 * n_desirable > 4 * n_undesirable:
        ratio = max(HIGHEST * n_undesirable / n_desirable, 1 / cap)
    else:
        ratio = 1.0
    undesirable = (n_desirable + n_undesirable) / (ratio * n_desirable + n_undesirable)
    return Weights(desirable=ratio * undesirable, undesirable=undesirable)


def source_weight(source: str, *, import_weight: float, judge_weight: float) -> float:
    """The weight of an example from a chat of this source."""
    if is_judged(source):
        return judge_weight
    return import_weight if is_of_source(source, IMPORT) else 1.0
