"""The readiness check: what it asks for, and that its reason tells people what to do."""

import pytest

from storage.settings import Settings
from trainer.dataset.readiness import check_readiness


@pytest.fixture
def settings() -> Settings:
    return Settings(min_votes_per_class=5, min_voters=2, max_length=1024)


def test_enough_of_everything(settings: Settings) -> None:
    verdict = check_readiness(ups=12, downs=5, voters=3, trainable_rows=14, settings=settings)
    assert verdict.ready
    assert verdict.reason == "Ready: 12 thumbs up and 5 thumbs down from 3 people, 14 examples to train on."


@pytest.mark.parametrize(
    ("ups", "downs", "missing"),
    [
        (0, 0, "5 more up and 5 more down"),
        (4, 9, "1 more up and 0 more down"),
        (9, 1, "0 more up and 4 more down"),
    ],
)
def test_each_kind_of_vote_is_needed(settings: Settings, ups: int, downs: int, missing: str) -> None:
    verdict = check_readiness(ups=ups, downs=downs, voters=2, trainable_rows=ups + downs, settings=settings)
    assert not verdict.ready
    assert missing in verdict.reason
    assert "THUMBLOOP_MIN_VOTES_PER_CLASS" in verdict.reason


def test_one_person_alone_may_not_be_enough(settings: Settings) -> None:
    verdict = check_readiness(ups=9, downs=9, voters=1, trainable_rows=15, settings=settings)
    assert not verdict.ready
    assert "votes from 1 person, but a run needs at least 2" in verdict.reason
    assert "THUMBLOOP_MIN_VOTERS" in verdict.reason


def test_everything_that_lacks_is_said_at_once(settings: Settings) -> None:
    reason = check_readiness(ups=1, downs=0, voters=1, trainable_rows=1, settings=settings).reason
    assert "1 thumb up and 0 thumbs down" in reason
    assert "votes from 1 person" in reason


@pytest.mark.parametrize("rows", [0, 1])
def test_rows_that_do_not_fit_leave_nothing_to_train_on(settings: Settings, rows: int) -> None:
    verdict = check_readiness(ups=6, downs=6, voters=2, trainable_rows=rows, settings=settings)
    assert not verdict.ready
    assert "longer than 1024 tokens" in verdict.reason


@pytest.mark.parametrize("limit", [1, 2, 20])
def test_the_limits_themselves_are_enough(limit: int) -> None:
    settings = Settings(min_votes_per_class=limit, min_voters=limit)
    assert check_readiness(
        ups=limit, downs=limit, voters=limit, trainable_rows=2 * limit, settings=settings
    ).ready
