"""Limits how often a person may ask for a reply.

A sliding window in this process's memory: each server counts for itself, and a restart forgets.
"""

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from storage.errors import TooOften
from storage.settings import Settings


class Limits:
    """`THUMBLOOP_MAX_REPLIES_PER_MINUTE` for each person; 0 means no limit. Safe from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_replies_per_minute
        self._window = RateLimitItemPerMinute(max(1, self._most))
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def take(self, user_id: str) -> None:
        """Count a request for a reply; raises TooOften at the limit. A refused request is not counted."""
        if not self._most or self._limiter.hit(self._window, user_id):
            return
        free_at = self._limiter.get_window_stats(self._window, user_id).reset_time
        wait = max(1, math.ceil(free_at - time.time()))
        raise TooOften(
            f"At most {self._most} replies a minute (max_replies_per_minute); ask again in {wait} s.",
            retry_after=wait,
        )
