"""A circuit breaker: after failures in a row a server is left alone for a while, then tried once.

Knows the clock and our errors; knows no server.
"""

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
    """Closed, it lets all through. Open, it lets nobody through.

    When the pause is over it lets one through: its success closes the breaker, its failure opens it for
    twice as long.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._pause = 0.0  # seconds, 0 while closed
        self._open_until = 0.0
        self._trying = False

    @property
    def wait_seconds(self) -> float:
        """How long nobody is let through; 0 if the next one is."""
        if not self._pause:
            return 0.0
        return max(self._open_until - self._clock(), 1.0 if self._trying else 0.0)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Counts what comes of an attempt at the server; raises Busy if none may be made now.

        A refusal is no failure: the server is well. Nor is an attempt that was cancelled.
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
        """Raises Busy while it is open."""
        wait = math.ceil(self.wait_seconds)
        if wait:
            raise Busy(
                f"The model server failed several times and is left alone for now; try again in {wait} s.",
                retry_after=wait,
                code=FAILED,
            )

    def succeed(self) -> None:
        self._failures, self._pause, self._trying = 0, 0.0, False

    def _fail(self) -> None:
        self._failures += 1
        on_trial, self._trying = self._trying, False
        if self._pause and not on_trial:
            return  # it began before the breaker opened
        if self._failures >= FAILURES:
            self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            self._open_until = self._clock() + self._pause
