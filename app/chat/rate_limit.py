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
        if self._most and not self._limiter.hit(self._window, user_id):
            raise self._refusal(user_id)

    def _refusal(self, user_id: str) -> TooOften:
        free_at = self._limiter.get_window_stats(self._window, user_id).reset_time
        wait = max(1, math.ceil(free_at - time.time()))
        return TooOften(
            f"{self._most} replies in a minute are the most (max_replies_per_minute); ask again in {wait} s.",
            retry_after=wait,
        )
