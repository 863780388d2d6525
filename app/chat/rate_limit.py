"""Limits how often a person may ask for a reply.

A sliding window in this process's memory: each server counts for itself, and a restart forgets.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from storage.errors import TooOften
from storage.settings import Settings

WINDOW_SECONDS = 60.0


class Limits:
    """`THUMBLOOP_MAX_REPLIES_PER_MINUTE` for each person; 0 means no limit. Safe from any thread.

    `clock` must never be set back, as the wall clock may be.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = settings.max_replies_per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: dict[str, deque[float]] = {}  # by person, the one who asked last at the end

    def take(self, user_id: str) -> None:
        """Count a request for a reply; raises TooOften at the limit. A refused request is not counted."""
        if not self._most:
            return
        with self._lock:
            moment = self._clock()
            self._forget(moment - WINDOW_SECONDS)
            taken = self._taken.get(user_id, deque())
            while taken and taken[0] <= moment - WINDOW_SECONDS:
                taken.popleft()
            if len(taken) < self._most:
                taken.append(moment)
                self._taken.pop(user_id, None)
                self._taken[user_id] = taken
                return
        wait = max(1, math.ceil(taken[0] + WINDOW_SECONDS - moment))
        raise TooOften(
            f"At most {self._most} replies a minute (max_replies_per_minute); ask again in {wait} s.",
            retry_after=wait,
        )

    def _forget(self, before: float) -> None:
        """Drop the people who have not asked since."""
        while self._taken and self._taken[next(iter(self._taken))][-1] <= before:
            del self._taken[next(iter(self._taken))]
