"""Sampled replies of two versions: which are better, what is harm, and which strength is chosen."""

from typing import Any

import numpy as np
import pytest

from storage.settings import Settings
from trainer.gate.comparison import (
    HARMS,
    General,
    Sampled,
    choose_strength,
    find_harms,
    probability_better,
    sampled,
)

SETTINGS = Settings()


def constant(prompts: int = 40, **values: float) -> Sampled:
    """Replies that all have these values."""
    usual = {
        **{"words": 50.0, "finished": 1.0, "empty": 0.0, "repetition": 0.02, "log_probability": -1.0},
        **{"other_language": 0.0, "refusal": 0.0, "general": -3.0, "kl": 0.0},
    }
    lists = {name: np.full(prompts, value) for name, value in (usual | values).items()}
    return Sampled(**lists, distinct_2grams=0.8)


def test_measures_of_four_replies() -> None:
    texts = [
        "a b c d a b c d a",
        "",
        "I'm sorry, but I can't help with that.",
        "Die Katze sitzt auf dem Dach.",
    ]
    prompts = ["Say it again and again.", "Say nothing.", "How do I open a door?", "Where does the cat sit?"]
    general = General(np.array([-3.0, -4.0]), np.array([0.25, 0.75]))
    log_probabilities = [-1.0, -2.0, -3.0, -4.0]
    found = sampled(prompts, texts, [True, True, False, True], log_probabilities, general).to_dict()
    # Of the six 4-grams of the first reply two occur a second time, and of its eight 2-grams four.
    assert found == {
        "words": 23 / 4,
        "finished": 0.75,
        "empty": 0.25,
        "repetition": pytest.approx(2 / 6 / 4),
        "other_language": 0.25,
        "refusal": 0.25,
        "log_probability": -2.5,
        "general": -3.5,
        "kl": 0.5,
        "distinct_2grams": 16 / 20,
    }


def test_the_probability_is_that_of_resampled_prompts() -> None:
    old = np.zeros(40)
    assert probability_better(old + 0.1, old) == 1.0
    assert probability_better(old, old) == 0.5
    assert probability_better(old - 0.1, old) == 0.0
    # 6 of 40 prompts are better and 2 worse: the mean of resamples is above 0 in about 92 % of the cases.
    new = np.array([1.0] * 6 + [-1.0] * 2 + [0.0] * 32)
    assert 0.89 < probability_better(new, old) < 0.96
    assert probability_better(new, old) + probability_better(old, new) == pytest.approx(1.0)


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.name)
def test_a_harm_is_beyond_its_tolerance_and_sure(harm: Any) -> None:
    base = constant()
    tolerance = getattr(SETTINGS, f"gate_{harm.name}_tolerance")
    sign = -1 if harm.more_is_better else 1
    usual = float(getattr(base, harm.name)[0])

    def harms(change: float, prompts: int = 40) -> list[str]:
        values = np.full(40, usual)
        values[:prompts] += sign * change * 40 / prompts
        return find_harms(Sampled(**{**vars(base), harm.name: values}), base, SETTINGS)

    assert harms(0.9 * tolerance) == []
    assert harms(-2 * tolerance) == []
    (found,) = harms(1.1 * tolerance)
    assert found.startswith(f"{harm.title} ")
    assert harms(1.1 * tolerance, prompts=1) == []  # one odd reply proves nothing


def test_what_is_not_a_number_is_harm() -> None:
    assert len(find_harms(constant(log_probability=float("nan")), constant(), SETTINGS)) == 1


def test_the_strength_is_the_best_liked_of_those_without_harm() -> None:
    base = constant(taste=0.4)
    candidates = {
        0.5: constant(taste=0.5),
        1.0: constant(taste=0.6),
        2.0: constant(taste=0.9, log_probability=-2.0),
    }
    assert choose_strength(candidates, base, SETTINGS) == 1.0
    assert choose_strength(candidates | {0.75: constant(taste=0.6)}, base, SETTINGS) == 0.75
    assert choose_strength({2.0: candidates[2.0]}, base, SETTINGS) == 0.0


def test_without_a_taste_the_strength_is_the_largest_without_harm() -> None:
    candidates = {0.5: constant(), 1.0: constant(repetition=0.03), 2.0: constant(repetition=0.3)}
    assert choose_strength(candidates, constant(), SETTINGS) == 1.0
