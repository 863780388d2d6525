"""Shares of votes: intervals, the probability that a version is worse than another, and the evidence for it.

Pure functions of counts. Two versions are compared by a Beta-Binomial model: each has an unknown share of
liked replies, before any vote equally likely to be any number from 0 to 1.
"""

import math
from dataclasses import dataclass

LIKELY = 0.95  # of an interval
Z95 = 1.959963984540054
_TINY = 1e-300


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Tally:
    """How many of a number of votes were thumbs up."""

    up: int = 0
    votes: int = 0

    @property
    def down(self) -> int:
        return self.votes - self.up

    @property
    def share(self) -> float | None:
        return self.up / self.votes if self.votes else None


@dataclass(frozen=True)
class Comparison:
    """A new version's votes against those of an old one.

    `worse` is the Bayes factor of "the new version is liked less" against "both are liked equally": how many
    times more probable the votes are if it is. `better` is the same of "it is liked more".
    """

    p_worse: float  # the probability that the new version is liked less, after these votes
    worse: float
    better: float


def compare(new: Tally, old: Tally) -> Comparison:
    """What the votes say of the new version.

    Ten times evidence in any case is called at most once in ten times: where both are liked equally, and
    their share is as likely to be any number, the Bayes factor ever reaches x with a probability of at most
    1/x, however often one looks (Ville's inequality; Deng, Lu and Chen 2016, "Continuous monitoring of A/B
    tests without pain"). For each single share this is shown by counting: docs/serving.md.
    """
    # Not 1 minus the other: a probability near 0 must be exact too, since it is multiplied by the factor.
    p_worse, p_better = probability_less(new, old), probability_less(old, new)
    apart = _log_beta(new.up + 1, new.down + 1) + _log_beta(old.up + 1, old.down + 1)
    together = _log_beta(new.up + old.up + 1, new.down + old.down + 1)
    factor = math.exp(min(apart - together, 700.0))
    # Half of all pairs of shares have the new one below: given that, the prior is twice as dense there.
    return Comparison(p_worse, 2 * p_worse * factor, 2 * p_better * factor)


def probability_less(new: Tally, old: Tally) -> float:
    """The probability that the new version's share is below the old one's, exactly.

    A finite sum for whole counts (Miller 2014, "Formulas for Bayesian A/B testing").
    """
    likes, dislikes = old.up + 1, old.down + 1
    others, more = new.up + 1, new.down + 1
    if more < likes:  # the same in shares of dislikes, with fewer terms
        likes, dislikes, others, more = more, others, dislikes, likes
    log_term = _log_beta(others, dislikes + more) - _log_beta(others, more)
    total = math.exp(log_term)
    for i in range(likes - 1):
        log_term += math.log((others + i) * (dislikes + i) / ((others + i + dislikes + more) * (1 + i)))
        total += math.exp(log_term)
    return min(1.0, total)


def cohens_kappa(both_up: int, first_up: int, second_up: int, total: int) -> float | None:
    """Cohen's κ of two raters (Educational and Psychological Measurement 20, 1960).

    Counts of what both, the first and the second rated up, of `total`. 1 is agreement in all, 0 what chance
    would give. None without ratings, or where both always say the same one thing.
    """
    if not total:
        return None
    agreed = (total - first_up - second_up + 2 * both_up) / total
    one, other = first_up / total, second_up / total
    by_chance = one * other + (1 - one) * (1 - other)
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else None


def exact_interval(successes: int, trials: int, likely: float = LIKELY) -> Interval:
    """The interval of Clopper and Pearson (1934): whatever the proportion, it covers it at least so often.

    [0, 1] without trials.
    """
    if trials == 0:
        return Interval(0.0, 1.0)
    tail = (1 - likely) / 2
    low = _beta_quantile(tail, successes, trials - successes + 1) if successes else 0.0
    high = _beta_quantile(1 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    return Interval(low, high)


def wilson_interval(successes: int, trials: int, z: float = Z95) -> Interval:
    """The score interval of Wilson (1927), which covers 95 % on average but less near 0 and 1.

    Only as a step to the interval of a difference.
    """
    if trials == 0:
        return Interval(0.0, 1.0)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # At 0 and at all the bound is exact, and rounding must not put it past the proportion.
    low = max(0.0, centre - half) if successes else 0.0
    return Interval(low, min(1.0, centre + half) if successes < trials else 1.0)


def _beta_quantile(probability: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (Lentz's method)."""
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges quickly below
        return 1 - _beta_cdf(1 - x, b, a)
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = fraction
        for step in (even, odd):
            c, d = _away(1 + step / c), 1 / _away(1 + step * d)
            fraction *= c * d
        if abs(fraction - before) < 1e-14 * fraction:
            break
    return math.exp(a * math.log(x) + b * math.log1p(-x) - math.log(a) - _log_beta(a, b)) * fraction


def _away(value: float) -> float:
    """The value, kept away from 0, which must not be divided by."""
    return value if abs(value) > _TINY else _TINY


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
