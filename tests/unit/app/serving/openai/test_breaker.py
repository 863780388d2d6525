"""The circuit breaker, by a clock that the tests turn."""

import pytest

from app.serving.openai.breaker import FAILURES, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breaker
from app.serving.openai.client import BUSY, FAILED
from storage.errors import Busy, InvalidInput, ThumbloopError
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


FAILURE = Busy("It failed.", code=FAILED)


def attempt(breaker: Breaker, error: BaseException | None = None) -> None:
    with breaker.attempt():
        if error is not None:
            raise error


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(Busy, match="It failed"):
            attempt(breaker, FAILURE)


def refused(breaker: Breaker) -> int:
    """Seconds that an attempt is told to wait."""
    with pytest.raises(Busy, match="left alone") as busy:
        attempt(breaker)
    return busy.value.retry_after


def test_it_opens_after_failures_in_a_row_only(breaker: Breaker) -> None:
    fail(breaker, FAILURES - 1)
    attempt(breaker)
    fail(breaker, FAILURES - 1)
    breaker.check()
    fail(breaker)
    assert refused(breaker) == FIRST_PAUSE_SECONDS


@pytest.mark.parametrize("error", [InvalidInput("Too long."), Busy("No room.", code=BUSY)])
def test_a_refusal_shows_that_the_server_is_well(breaker: Breaker, error: ThumbloopError) -> None:
    fail(breaker, FAILURES - 1)
    with pytest.raises(type(error)):
        attempt(breaker, error)
    fail(breaker, FAILURES - 1)
    breaker.check()


def test_after_the_pause_one_tries_and_its_success_closes(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, FAILURES)
    clock.now += FIRST_PAUSE_SECONDS - 0.5
    assert refused(breaker) == 1
    clock.now += 0.5
    with breaker.attempt():
        assert refused(breaker) == 1  # nobody beside the one who tries
    for _ in range(3):
        attempt(breaker)
    with breaker.attempt():
        attempt(breaker)  # closed again, it lets several through
    fail(breaker, FAILURES - 1)
    breaker.check()


def test_each_failed_trial_doubles_the_pause_up_to_a_limit(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, FAILURES)
    pauses = []
    for _ in range(6):
        pauses.append(refused(breaker))
        clock.now += pauses[-1]
        fail(breaker)
    assert pauses[:3] == [FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


def test_a_cancelled_trial_leaves_the_turn_to_the_next(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, FAILURES)
    clock.now += FIRST_PAUSE_SECONDS
    with pytest.raises(KeyboardInterrupt):
        attempt(breaker, KeyboardInterrupt())
    attempt(breaker)
    fail(breaker, FAILURES - 1)
    breaker.check()


def test_those_that_began_before_it_opened_do_not_prolong_the_pause(breaker: Breaker, clock: Clock) -> None:
    early = breaker.attempt()
    early.__enter__()
    fail(breaker, FAILURES)
    clock.now += 3
    assert not early.__exit__(Busy, FAILURE, None)
    assert refused(breaker) == FIRST_PAUSE_SECONDS - 3
