"""Places for replies: how many may be under way or wait at once, and when to come back if none is free.

Knows no model and no person.
"""

import math
import threading

from storage.errors import Busy


class Places:
    """May be used from any thread."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._at_once = at_once
        self._most = at_once + waiting
        self._lock = threading.Lock()
        self._taken = 0
        self._usual_seconds = 5.0  # a running mean over replies, to tell a refused caller when to return

    def take(self) -> None:
        """Raises Busy if all are taken."""
        with self._lock:
            if self._taken >= self._most:
                wait = math.ceil(self._usual_seconds * self._taken / self._at_once / 2)
                raise Busy(
                    f"{self._taken} replies are under way or waiting, which is the limit "
                    f"(max_concurrent_replies + max_waiting_replies); try again in about {wait} s.",
                    retry_after=max(1, min(wait, 60)),
                )
            self._taken += 1

    def free(self, seconds: float | None = None) -> None:
        """`seconds` is how long a reply took, if it ran."""
        with self._lock:
            self._taken -= 1
            if seconds is not None:
                self._usual_seconds += 0.2 * (seconds - self._usual_seconds)
