"""The readiness check: what it asks for, and that its reason names the remedy."""

from typing import Any

import pytest

from storage.settings import Settings
from trainer.dataset.readiness import Readiness, check_readiness


def check(ups: int, downs: int, voters: int, rows: int, **changes: int) -> Readiness:
    chosen: dict[str, Any] = {"min_votes_per_class": 5, "min_voters": 2, "max_length": 1024} | changes
    return check_readiness(
        ups=ups, downs=downs, voters=voters, trainable_rows=rows, settings=Settings(**chosen)
    )


def test_enough_of_everything() -> None:
    reason = "Ready: 12 thumbs up and 5 thumbs down from 3 people, 14 examples to train on."
    assert check(12, 5, 3, 14) == Readiness(True, reason)


@pytest.mark.parametrize(
    ("counts", "reasons"),
    [
        ((0, 0, 2, 0), ["5 more up and 5 more down", "THUMBLOOP_MIN_VOTES_PER_CLASS"]),
        ((4, 9, 2, 13), ["1 more up and 0 more down"]),
        ((9, 1, 2, 10), ["0 more up and 4 more down"]),
        ((9, 9, 1, 15), ["votes from 1 person, but a run needs at least 2", "THUMBLOOP_MIN_VOTERS"]),
        ((1, 0, 1, 1), ["1 thumb up and 0 thumbs down", "votes from 1 person"]),
        ((6, 6, 2, 0), ["longer than 1024 tokens"]),
        ((6, 6, 2, 1), ["longer than 1024 tokens"]),
    ],
)
def test_each_lack_is_named_with_a_remedy(counts: tuple[int, int, int, int], reasons: list[str]) -> None:
    found = check(*counts)
    assert not found.ready
    assert all(reason in found.reason for reason in reasons)


@pytest.mark.parametrize("limit", [1, 2, 20])
def test_the_limits_themselves_are_enough(limit: int) -> None:
    assert check(limit, limit, limit, 2 * limit, min_votes_per_class=limit, min_voters=limit).ready
