"""Which point of a sweep is best: a pure rule, with its ties, its falls and its points that diverged."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InvalidInput
from storage.settings import Settings
from trainer.sweep.grid import (
    Grid,
    Point,
    Result,
    is_above_base,
    is_above_chance,
    named_grid,
    rank,
    winner,
)


def measured(name: float, auc: float | None = 0.8, **other: Any) -> Result:
    """A point that its β identifies."""
    values: dict[str, Any] = {
        "auc": auc,
        "auc_standard_error": 0.05,
        "margin": 1.0,
        "liked_change": 1.0,
        "liked_standard_error": 0.1,
        "z0": 0.1,
    }
    point, diverged = Point(other.pop("loss", "kto"), name, 1e-4), other.pop("diverged", "")
    return Result(point, diverged, 1.0, values | other)


def order(*results: Result) -> list[float]:
    return [result.point.beta for result in rank(results)]


def test_the_study_s_grid_and_a_small_one() -> None:
    settings = Settings(learning_rate=3e-5)
    full = named_grid("full", settings)
    assert full.betas == (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert full.losses == ("kto", "apo_zero_unpaired", "dpo", "ipo")
    assert len({point.name for point in full.points()}) == 10 * 4 * 3
    assert [point.loss for point in full.points()[:4]] == list(full.losses)
    small = named_grid("small", settings)
    assert (len(small.points()), small.learning_rates) == (6, (3e-5,))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"betas": (0.0,)}, "--betas 0.0: give numbers above 0"),
        ({"betas": (math.nan,)}, "--betas nan"),
        ({"learning_rates": (math.inf,)}, "--learning-rates inf"),
        ({"learning_rates": ()}, "--learning-rates has no value"),
        ({"betas": (0.1, 0.1)}, "--betas 0.1,0.1 has a value twice"),
        ({"sampler": "tpe"}, "--points is for --sampler random or tpe"),
        ({"draws": 3}, "--points is for --sampler random or tpe"),
        ({"losses": ("kto", "ppo")}, "--losses ppo: the losses are kto, apo_zero_unpaired"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        Grid(**{"betas": (0.1,), "losses": ("kto",), "learning_rates": (1e-4,)} | values)


def test_a_clearly_higher_auc_is_better_whatever_else() -> None:
    assert order(measured(0.1, 0.7, liked_change=9.0), measured(0.2, 0.8, liked_change=0.1)) == [0.2, 0.1]


def test_ties_are_broken_by_the_liked_replies_and_then_by_z0() -> None:
    best = measured(0.1, 0.80, liked_change=1.0)
    likelier = measured(0.2, 0.76, liked_change=2.0)
    closer = measured(0.3, 0.78, liked_change=1.0, z0=0.05)
    assert order(best, likelier, closer) == [0.2, 0.3, 0.1]


def test_a_tie_is_with_the_best_and_no_chain_of_neighbours() -> None:
    first, second = measured(0.1, 0.80), measured(0.2, 0.76, liked_change=2.0)
    third, fourth = measured(0.3, 0.72, liked_change=3.0), measured(0.4, 0.70, liked_change=4.0)
    assert order(first, second, third, fourth) == [0.2, 0.1, 0.4, 0.3]


def test_the_standard_error_is_that_of_the_better_point() -> None:
    sure, unsure = measured(0.1, 0.8, auc_standard_error=0.01), measured(0.2, 0.75, auc_standard_error=0.2)
    assert order(sure, replaced := measured(0.3, 0.75, liked_change=5.0, auc_standard_error=0.2)) == [
        0.1,
        0.3,
    ]
    assert order(unsure, replaced) == [0.3, 0.2]


def test_a_point_whose_liked_replies_fell_stands_behind_and_never_wins() -> None:
    fell = measured(0.1, 0.99, liked_change=-1.0)
    within_its_error = measured(0.2, 0.6, liked_change=-0.05)
    assert order(fell, within_its_error) == [0.2, 0.1]
    won = winner(rank([fell, within_its_error]))
    assert won is not None
    assert won.point.beta == 0.2
    assert winner(rank([fell])) is None


@pytest.mark.parametrize(
    "lost",
    [
        {"diverged": "A gradient is not a finite number."},
        {"auc": math.nan},
        {"auc": None, "auc_standard_error": None},
        {"liked_change": math.nan},
        {"z0": math.inf},
        {"auc_standard_error": math.nan},
    ],
)
def test_what_is_no_number_is_last_and_never_wins(lost: dict[str, Any]) -> None:
    diverged = measured(0.1, **{"auc": 1.0} | lost)
    assert order(diverged, measured(0.2, 0.5), measured(0.3, 0.2, liked_change=-5.0)) == [0.2, 0.3, 0.1]
    assert winner([diverged]) is None
    assert not is_above_chance(diverged)


def test_the_winner_among_some_losses() -> None:
    ranked = rank([measured(0.1, 0.9, loss="dpo"), measured(0.2, 0.6)])
    assert winner(ranked) is ranked[0]
    assert winner(ranked, losses=("kto", "apo_zero_unpaired")) is ranked[1]


def test_a_judge_ranks_by_its_rating_and_ties_by_the_votes() -> None:
    rated = {"judge_standard_error": 0.2}
    best = measured(0.1, 0.6, judge=4.0, liked_change=-3.0, **rated)
    tied = measured(0.2, 0.7, judge=3.9, **rated)
    worse = measured(0.3, 0.9, judge=3.0, **rated)
    unrated = measured(0.4, 0.9, judge=None)
    without_votes = measured(0.5, None, judge=3.5, **rated)
    ranked = rank([unrated, worse, best, without_votes, tied], "judge")
    assert [result.point.beta for result in ranked] == [0.2, 0.1, 0.5, 0.3, 0.4]
    assert winner([best], "judge") is best, "what became of old replies does not matter"
    assert winner([unrated], "judge") is None
    base = {"judge": 3.65, "judge_standard_error": 0.15}
    assert is_above_base(best, base), "0.35 is more than the error of the difference, 0.25"
    assert not is_above_base(tied, base | {"judge_standard_error": 0.16})
    assert not is_above_base(unrated, base)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, math.nan, 0.2, 0.5, 0.52, 0.58, 0.6, 0.9]),
            st.sampled_from([math.nan, -2.0, -0.05, 0.0, 1.0]),
            st.sampled_from([0.0, 0.3]),
        ),
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_every_point_is_ranked_once_whatever_the_order(
    drawn: list[tuple[float | None, float, float]], shuffled: Any
) -> None:
    results = [
        measured(0.1 + number, auc, liked_change=liked, z0=z0)
        for number, (auc, liked, z0) in enumerate(drawn)
    ]
    ranked = rank(results)
    assert sorted(result.point.beta for result in ranked) == [result.point.beta for result in results]
    sound = [result for result in ranked if result.is_sound()]
    assert ranked[: len(sound)] == sound
    shuffled.shuffle(results)
    assert [result for result in rank(results) if result.is_sound()] == sound


def test_an_auc_near_one_half_is_chance() -> None:
    assert is_above_chance(measured(0.1, 0.56))
    assert not is_above_chance(measured(0.1, 0.54))
