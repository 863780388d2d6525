"""Limits for each minute: in this process's memory, or in a store that all servers reach."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from storage.errors import BadSetting
from storage.settings import Settings

log = logging.getLogger(__name__)

WINDOW_SECONDS = 60.0
STORE_SECONDS = 1.0  # that a store has to answer
PAUSE_SECONDS = 10.0  # without the store, after it has failed


class Limit(Protocol):
    def take(self, key: str = "") -> int:
        """Count an event and return 0; at the limit count nothing and return the seconds to wait."""


def limit_per_minute(name: str, most: int, settings: Settings) -> Limit:
    """At most `most` events of each key in any minute, with those of the other servers if there is a store.

    `name` keeps the limits in a store apart. Raises BadSetting for a store that cannot be used.
    """
    own = PerMinute(most)
    return SharedPerMinute(name, most, settings.rate_limit_store, own) if settings.rate_limit_store else own


class PerMinute:
    """At most `most` events of each key in any minute; 0 means no limit. Safe from any thread.

    Each server counts for itself, and a restart forgets. `clock` must never be set back.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: dict[str, deque[float]] = {}  # by key, the one taken last at the end

    def take(self, key: str = "") -> int:
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


class SharedPerMinute:
    """The same in a store of the library `limits`, such as Redis. Calls may block for STORE_SECONDS.

    While the store cannot be reached, `own` counts.
    """

    def __init__(self, name: str, most: int, store: str, own: PerMinute) -> None:
        from limits import RateLimitItemPerMinute
        from limits.errors import ConfigurationError
        from limits.storage import storage_from_string
        from limits.strategies import MovingWindowRateLimiter

        options: dict[str, Any] = {
            "socket_timeout": STORE_SECONDS,
            "socket_connect_timeout": STORE_SECONDS,
        }
        try:
            storage: Any = storage_from_string(store, wrap_exceptions=False, **options)
            self._limiter = MovingWindowRateLimiter(storage)
        except (ConfigurationError, NotImplementedError, ValueError) as error:
            raise BadSetting(
                f"THUMBLOOP_RATE_LIMIT_STORE cannot be used ({str(error).replace(store, 'its address')}). "
                f"Give an address such as redis://host:6379, and install thumbloop[redis].",
                field="rate_limit_store",
            ) from error
        self._failures: Any = storage.base_exceptions
        self._name, self._most, self._own = name, most, own
        self._limit = RateLimitItemPerMinute(most, namespace="thumbloop") if most else None
        self._paused_until = -math.inf

    def take(self, key: str = "") -> int:
        if self._limit is None:
            return 0
        if time.monotonic() < self._paused_until:
            return self._own.take(key)
        try:
            if self._limiter.hit(self._limit, self._name, key):
                return 0
            resets = self._limiter.get_window_stats(self._limit, self._name, key).reset_time
        except self._failures as error:
            log.warning("The store of rate limits fails, so this server counts for itself: %s", error)
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            return self._own.take(key)
        return max(1, math.ceil(resets - time.time()))
