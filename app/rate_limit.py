"""A limit for each minute, in this process's memory: each server counts for itself, and a restart forgets."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 60.0


class PerMinute:
    """At most `most` events of each key in any minute; 0 means no limit. Safe from any thread.

    `clock` must never be set back, as the wall clock may be.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: dict[str, deque[float]] = {}  # by key, the one taken last at the end

    def take(self, key: str = "") -> int:
        """Count an event and return 0; at the limit count nothing and return the seconds to wait."""
        if not self._most:
            return 0
        with self._lock:
            moment = self._clock()
            while self._taken and self._taken[next(iter(self._taken))][-1] <= moment - WINDOW_SECONDS:
                del self._taken[next(iter(self._taken))]
            taken = self._taken.get(key, deque())
            while taken and taken[0] <= moment - WINDOW_SECONDS:
                taken.popleft()
            if len(taken) >= self._most:
                return max(1, math.ceil(taken[0] + WINDOW_SECONDS - moment))
            taken.append(moment)
            self._taken.pop(key, None)
            self._taken[key] = taken
            return 0
