"""The weight rule of the KTO paper: its interval, its edges, its cap, its normalisation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InvalidInput
from storage.examples.weights import Weights, class_weights

counts = st.integers(1, 1_000_000)


def share(weights: Weights, ups: int, downs: int) -> float:
    return weights.desirable * ups / (weights.undesirable * downs)


@given(counts, counts, st.floats(1, 100))
def test_every_count_lands_inside_the_interval_or_on_the_cap(ups: int, downs: int, cap: float) -> None:
    weights = class_weights(ups, downs, cap)
    ratio = weights.desirable / weights.undesirable
    assert max(ratio, 1 / ratio) <= cap * (1 + 1e-12)
    on_cap = max(ratio, 1 / ratio) == pytest.approx(cap)
    assert on_cap or 1 <= share(weights, ups, downs) <= 4 / 3


@given(counts, counts)
def test_the_mean_over_the_rows_is_one(ups: int, downs: int) -> None:
    weights = class_weights(ups, downs, 15)
    assert (weights.desirable * ups + weights.undesirable * downs) / (ups + downs) == pytest.approx(1)


@given(counts, counts)
def test_the_majority_is_never_weighted_up(ups: int, downs: int) -> None:
    weights = class_weights(ups, downs, 15)
    if ups > downs:
        assert weights.undesirable >= weights.desirable
    else:
        assert weights.desirable >= weights.undesirable


@given(counts, counts, st.integers(2, 50))
def test_only_the_proportion_matters(ups: int, downs: int, factor: int) -> None:
    one, many = class_weights(ups, downs, 15), class_weights(ups * factor, downs * factor, 15)
    assert many.desirable == pytest.approx(one.desirable)
    assert many.undesirable == pytest.approx(one.undesirable)


@pytest.mark.parametrize(("ups", "downs"), [(1, 1), (12, 12), (4, 3), (400, 300), (11, 10)])
def test_counts_inside_the_interval_get_equal_weights(ups: int, downs: int) -> None:
    assert class_weights(ups, downs, 15) == Weights(1.0, 1.0)


@pytest.mark.parametrize(
    ("ups", "downs", "expected"),
    [
        (5, 3, 1.32),  # just above: thumbs down are weighted up to the upper end
        (90, 10, 1.32),
        (3, 4, 1.01),  # below: thumbs up are weighted up to the lower end
        (10, 90, 1.01),
    ],
)
def test_counts_outside_go_to_the_nearer_end(ups: int, downs: int, expected: float) -> None:
    assert share(class_weights(ups, downs, 15), ups, downs) == pytest.approx(expected)


@pytest.mark.parametrize(("ups", "downs"), [(1, 1000), (1000, 1)])
def test_the_cap_stops_a_handful_of_votes_from_ruling(ups: int, downs: int) -> None:
    weights = class_weights(ups, downs, 15)
    rare, common = weights.of(ups < downs), weights.of(ups > downs)
    assert rare / common == pytest.approx(15)


@pytest.mark.parametrize(("ups", "downs"), [(0, 5), (5, 0), (0, 0), (-1, 5)])
def test_a_class_without_examples_has_no_weight(ups: int, downs: int) -> None:
    with pytest.raises(InvalidInput, match="at least one of each kind"):
        class_weights(ups, downs, 15)


@pytest.mark.parametrize("cap", [0.5, 0, float("nan")])
def test_a_cap_below_one_is_refused(cap: float) -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        class_weights(5, 5, cap)
