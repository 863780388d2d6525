"""Intervals and evidence, checked by counting every outcome and by seeded simulations. No database."""

import math
import random
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import accumulate

import pytest

from storage.chats.proportions import Tally, compare, exact_interval, probability_less, wilson_interval

SHARES = (0.0, 0.002, 0.01, 0.05, 0.2, 0.5, 0.77, 0.95, 0.998, 1.0)
REPETITIONS = 2000
LEAST, MOST = 20, 400  # votes on a new version: when it may be judged first, and how long it is watched
BEFORE = 200  # votes on the version before


interval = cache(exact_interval)


def probability_of(successes: int, trials: int, share: float) -> float:
    return float(math.comb(trials, successes) * share**successes * (1 - share) ** (trials - successes))


@pytest.mark.parametrize(
    ("up", "all_votes", "low", "high"),
    # The bound at none is 1 - 0.025 ** (1 / 20).
    [(0, 0, 0.0, 1.0), (0, 20, 0.0, 0.16843), (20, 20, 0.83157, 1.0), (10, 20, 0.27196, 0.72804)],
)
def test_the_interval_of_a_share(up: int, all_votes: int, low: float, high: float) -> None:
    found = exact_interval(up, all_votes)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("trials", [1, 2, 7, 20, 60, 200])
def test_an_interval_covers_as_often_as_it_says_at_every_share(share: float, trials: int) -> None:
    def covers(successes: int) -> bool:
        found = interval(successes, trials)
        return found.low <= share <= found.high

    covered = sum(probability_of(k, trials, share) for k in range(trials + 1) if covers(k))
    assert covered >= 0.95 - 1e-12


def test_a_wilson_interval_would_not() -> None:
    """Near 0 it leaves out the share too often, which is why no approval is shown with it."""
    covered = sum(probability_of(k, 100, 0.0017) for k in range(101) if wilson_interval(k, 100).low <= 0.0017)
    assert covered < 0.85


def less_by_fractions(new: Tally, old: Tally) -> Fraction:
    """The same in whole numbers: x is Beta(a, b), so x < y if at least a of n uniform numbers are below y."""

    def beta(a: int, b: int) -> Fraction:
        return Fraction(math.factorial(a - 1) * math.factorial(b - 1), math.factorial(a + b - 1))

    a, b, c, d = new.up + 1, new.down + 1, old.up + 1, old.down + 1
    n = a + b - 1
    terms = (math.comb(n, i) * beta(c + i, d + n - i) for i in range(a, n + 1))
    return sum(terms, Fraction(0)) / beta(c, d)


@pytest.mark.parametrize("new", [Tally(0, 0), Tally(0, 9), Tally(9, 9), Tally(3, 8), Tally(31, 80)])
@pytest.mark.parametrize("old", [Tally(0, 0), Tally(0, 12), Tally(12, 12), Tally(52, 90)])
def test_the_probability_that_a_version_is_worse_is_exact(new: Tally, old: Tally) -> None:
    assert probability_less(new, old) == pytest.approx(float(less_by_fractions(new, old)), rel=1e-9)


def test_the_evidence_is_a_ratio_of_probabilities() -> None:
    """One vote each: worse are the votes down and up, which have 1/3 there and 1/6 among equals."""
    found = compare(Tally(0, 1), Tally(1, 1))
    assert found.p_worse == pytest.approx(5 / 6)
    assert (found.worse, found.better) == (pytest.approx(5 / 2), pytest.approx(1 / 2))
    unseen = compare(Tally(), Tally(60, 100))
    assert (unseen.p_worse, unseen.worse) == (pytest.approx(61 / 102), pytest.approx(2 * 61 / 102))


def test_many_votes_do_not_overflow() -> None:
    found = compare(Tally(200, 2000), Tally(1800, 2000))
    assert found.p_worse == pytest.approx(1)
    assert found.worse > 1e100
    assert found.better < 1e-100


@cache
def bound(up_before: int, votes: int, error_rate: float) -> int:
    """The most thumbs up among so many votes that still show a worse version; -1 if none do."""
    ups = bound(up_before, votes - 1, error_rate) if votes > 1 else -1
    old = Tally(up_before, BEFORE)

    def shows(up: int) -> bool:
        return 0 <= up <= votes and compare(Tally(up, votes), old).worse >= 1 / error_rate

    while shows(ups + 1):
        ups += 1
    while ups >= 0 and not shows(ups):
        ups -= 1
    return ups


def votes_until_worse(draws: random.Random, before: float, now: float, error_rate: float) -> int | None:
    """How many votes it took, with a look after each; None if the version was not taken for worse."""
    up_before = sum(draws.random() < before for _ in range(BEFORE))
    ups = accumulate(draws.random() < now for _ in range(MOST))
    for votes, up in enumerate(ups, 1):
        if votes >= LEAST and up <= bound(up_before, votes, error_rate):
            return votes
    return None


def repeated(before: float, now: float, error_rate: float = 0.05) -> Iterator[int | None]:
    draws = random.Random(f"{before} {now}")
    return (votes_until_worse(draws, before, now, error_rate) for _ in range(REPETITIONS))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9])
def test_an_equal_version_is_taken_for_worse_at_most_as_often_as_stated(share: float) -> None:
    wrong = sum(found is not None for found in repeated(share, share))
    assert wrong / REPETITIONS <= 0.03, "docs/serving.md says 3 % of the 5 % allowed"


@pytest.mark.parametrize(("before", "now"), [(0.5, 0.55), (0.6, 0.8)])
def test_a_better_version_is_hardly_ever_taken_for_worse(before: float, now: float) -> None:
    wrong = sum(found is not None for found in repeated(before, now))
    assert wrong / REPETITIONS <= 0.01


@pytest.mark.parametrize(("before", "now"), [(0.6, 0.4), (0.8, 0.6), (0.4, 0.2)])
def test_a_version_that_is_worse_by_20_points_is_found_within_200_votes(before: float, now: float) -> None:
    in_time = sum(found is not None and found <= 200 for found in repeated(before, now))
    assert in_time / REPETITIONS >= 0.9, "docs/serving.md says so"
