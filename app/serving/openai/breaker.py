"""A circuit breaker: after repeated failures it blocks requests for a while, then lets one through."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.serving.openai.client import BUSY, FAILED
from storage.errors import Busy, ThumbloopError

FAILURES = 5  # in a row
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0


class Breaker:
    """While closed, every attempt passes; while open, none does.

    After the pause one attempt passes: its success closes the breaker, its failure doubles the pause.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._pause = 0.0  # seconds, 0 while closed
        self._open_until = 0.0
        self._trying = False

    @property
    def wait_seconds(self) -> float:
        """How long attempts stay blocked; 0 if the next one passes."""
        if not self._pause:
            return 0.0
        return max(self._open_until - self._clock(), 1.0 if self._trying else 0.0)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Count the outcome of an attempt; raises Busy if none may be made now.

        A refusal is not a failure, because the server works; nor is a cancelled attempt.
        """
        self.check()
        self._trying = self._pause > 0
        try:
            yield
        except ThumbloopError as error:
            if isinstance(error, Busy) and error.code != BUSY:
                self._fail()
            else:
                self.succeed()
            raise
        except BaseException:
            self._trying = False
            raise
        self.succeed()

    def check(self) -> None:
        """Raise Busy while it is open."""
        wait = math.ceil(self.wait_seconds)
        if wait:
            raise Busy(
                "The model server failed several times and is left alone for now; try again in {wait} s.",
                retry_after=wait,
                code=FAILED,
                wait=wait,
            )

    def succeed(self) -> None:
        self._failures, self._pause, self._trying = 0, 0.0, False

    def _fail(self) -> None:
        self._failures += 1
        on_trial, self._trying = self._trying, False
        if self._pause and not on_trial:
            return  # this attempt began before the breaker opened
        if self._failures >= FAILURES:
            self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            self._open_until = self._clock() + self._pause
