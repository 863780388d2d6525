"""The points that a run keeps of its training."""

import math

from trainer.runs.curve import MOST_POINTS, TrainingCurve


def step(number: int, loss: float = 0.5) -> dict[str, float | None]:
    return {"step": number, "loss": loss, "margin": None, "kl": math.nan}


def test_unknown_values_are_none() -> None:
    curve = TrainingCurve()
    curve.add(step(1))
    assert curve.points == [[1, 0.5, None, None]]


def test_a_long_training_keeps_its_ends_and_a_bounded_number_of_points() -> None:
    curve = TrainingCurve()
    for number in range(1, 5001):
        curve.add(step(number))
        assert len(curve.points) <= MOST_POINTS
    steps = [point[0] for point in curve.points]
    assert len(steps) > MOST_POINTS / 3
    assert steps[0] == 1
    assert 5000 - steps[-1] < 100


def test_a_resumed_training_replaces_what_it_repeats() -> None:
    earlier = TrainingCurve()
    for number in range(1, 8):
        earlier.add(step(number))
    resumed = TrainingCurve(list(earlier.points))
    resumed.add(step(6, loss=0.25))
    assert [point[:2] for point in resumed.points[-2:]] == [[5, 0.5], [6, 0.25]]
