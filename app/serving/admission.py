"""Places for replies: how many may be under way or wait at once, and when to come back if none is free.

Of people it knows who has how many places; it knows no model.
"""

import math
import threading
from collections import Counter

from storage.errors import Busy


class Places:
    """May be used from any thread.

    One person may take every place. Whoever has none yet gets their first all the same, beyond the limit and
    up to as many again: nobody is kept out by what another asked for.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._at_once = at_once
        self._most = at_once + waiting
        self._lock = threading.Lock()
        self._taken = 0
        self._of: Counter[str] = Counter()
        self._usual_seconds = 5.0  # a running mean over replies, to tell a refused caller when to return

    def take(self, person: str) -> None:
        """Raises Busy if all are taken."""
        with self._lock:
            most = self._most if self._of[person] else 2 * self._most
            if self._taken >= most:
                wait = math.ceil(self._usual_seconds * self._taken / self._at_once / 2)
                raise Busy(
                    f"{self._taken} replies are under way or waiting, which is the limit "
                    f"(max_concurrent_replies + max_waiting_replies); try again in about {wait} s.",
                    retry_after=max(1, min(wait, 60)),
                )
            self._taken += 1
            self._of[person] += 1

    def free(self, person: str, seconds: float | None = None) -> None:
        """`seconds` is how long a reply took, if it ran."""
        with self._lock:
            self._taken -= 1
            self._of[person] -= 1
            if not self._of[person]:
                del self._of[person]
            if seconds is not None:
                self._usual_seconds += 0.2 * (seconds - self._usual_seconds)
