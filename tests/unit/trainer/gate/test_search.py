"""The search for a strength, on given scores: what is tried, on how many prompts, and where it ends."""

from collections.abc import Sequence

import numpy as np
import pytest

from storage.settings import Settings
from trainer.gate.comparison import Sampled
from trainer.gate.decision import ReplyEvidence
from trainer.gate.search import CANDIDATE, search
from trainer.taste.sampler import BASE, Version
from trainer.taste.taste import Abstention

SETTINGS = Settings(gate_prompts=40, gate_max_prompts=160)
BETTER, WORSE, OPEN, HARMFUL = "better", "worse", "open", "harmful"


class Given:
    """The base model's replies score ½; those of the candidate as `kinds` say of its strengths."""

    def __init__(self, kinds: dict[float, str]) -> None:
        self.kinds, self.asked = kinds, list[tuple[Version, int]]()

    def sample(self, versions: Sequence[Version], number: int) -> None:
        self.asked += [(version, number) for version in versions]

    def measure(self, version: Version, number: int) -> Sampled:
        self.asked.append((version, number))
        kind = self.kinds[version[1]] if version != BASE else OPEN
        turns = np.where(np.arange(number) % 2, 0.3, -0.3)  # as often better as worse
        taste = {BETTER: turns + 0.8, WORSE: turns + 0.2, OPEN: turns + 0.5, HARMFUL: turns + 0.8}[kind]
        same = np.zeros(number)
        repeated = np.ones(number) if kind == HARMFUL else same
        other = turns[::-1] if version != BASE else same  # so that open scores differ from the base model's
        values = [same, same, same, repeated, same, same, same, same, same]
        return Sampled(*values, distinct_2grams=0.5, taste=taste + other)


def tried(kinds: dict[float, str], **given: object) -> tuple[ReplyEvidence, list[tuple[float, int]]]:
    replies = Given(kinds)
    same = {"deployed": BASE, "prompts": 160, "taste": Abstention("none"), "settings": SETTINGS}
    found = search(replies, [*kinds], **same, **given)  # type: ignore[arg-type]
    return found, [(version[1], number) for version, number in replies.asked if version[0] == CANDIDATE]


def test_the_largest_strength_is_taken_where_it_is_surely_better() -> None:
    found, asked = tried({0.5: BETTER, 1.0: BETTER})
    assert (found.strength, found.prompts, found.looks) == (1.0, 40, 2)
    assert set(asked) == {(1.0, 40)}


def test_what_may_be_better_is_asked_more_and_at_no_smaller_strength() -> None:
    found, asked = tried({0.5: BETTER, 1.0: OPEN})
    assert (found.strength, found.prompts) == (1.0, 160)
    assert set(asked) == {(1.0, 40), (1.0, 160)}
    assert len(found.base.words) == len(found.deployed.words) == len(found.candidates[1.0].words) == 160


@pytest.mark.parametrize("kind", [WORSE, HARMFUL])
def test_what_is_worse_or_harmful_is_tried_at_a_smaller_strength(kind: str) -> None:
    found, asked = tried({0.5: BETTER, 1.0: kind})
    assert (found.strength, found.prompts) == (0.5, 40)
    assert set(asked) == {(1.0, 40), (0.5, 40)}


def test_nothing_is_chosen_where_every_strength_does_harm() -> None:
    found, _ = tried({0.5: HARMFUL, 1.0: HARMFUL})
    assert (found.strength, set(found.candidates)) == (0.0, {0.5, 1.0})


def test_a_smaller_strength_that_may_be_better_is_compared_with_the_larger_on_all_prompts() -> None:
    found, asked = tried({0.5: OPEN, 1.0: WORSE})
    assert (found.strength, found.prompts) == (0.5, 160)
    assert (1.0, 160) in asked


def test_without_time_it_ends_with_what_it_has() -> None:
    found, asked = tried({0.5: BETTER, 1.0: OPEN}, is_over=lambda: True)
    assert (found.strength, found.prompts, found.looks) == (1.0, 40, 2)
    assert set(asked) == {(1.0, 40)}
    found, _ = tried({0.5: BETTER, 1.0: WORSE}, is_over=lambda: True)
    assert (found.strength, set(found.candidates)) == (1.0, {1.0})
