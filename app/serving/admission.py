"""Admission of replies: limits how many run or wait at once, fairly between people."""

import math
import threading
from collections import Counter

from storage.errors import Busy


class Admission:
    """Counts admitted replies by person and by version. May be used from any thread.

    One person may take all of the capacity. A person without a reply is still admitted beyond the limit,
    up to twice the limit in total, so that nobody is locked out by another.
    """

    def __init__(self, concurrent: int, waiting: int) -> None:
        self._concurrent = concurrent
        self._limit = concurrent + waiting
        self._changed = threading.Condition()
        self._persons: Counter[str] = Counter()
        self._versions: Counter[str] = Counter()
        self._usual_seconds = 5.0  # running mean of a reply's duration, for Retry-After

    def admit(self, person: str, version_id: str) -> None:
        """Count one more reply; raises Busy if there is no capacity for it."""
        with self._changed:
            admitted = self._persons.total()
            if admitted >= (self._limit if self._persons[person] else 2 * self._limit):
                wait = math.ceil(self._usual_seconds * admitted / self._concurrent / 2)
                raise Busy(
                    "{admitted} replies are under way or waiting, which is the limit; "
                    "try again in about {wait} s.",
                    retry_after=max(1, min(wait, 60)),
                    admitted=admitted,
                    wait=wait,
                )
            self._persons[person] += 1
            self._versions[version_id] += 1

    def release(self, person: str, version_id: str, seconds: float | None = None) -> None:
        """Count one reply less; `seconds` is its duration, if it did not fail."""
        with self._changed:
            for counter, key in ((self._persons, person), (self._versions, version_id)):
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]
            if seconds is not None:
                self._usual_seconds += 0.2 * (seconds - self._usual_seconds)
            self._changed.notify_all()

    def seconds_until(self, place: int) -> int:
        """About how long the reply at this place of the queue waits for its turn."""
        return math.ceil(self._usual_seconds * place / self._concurrent)

    def admitted(self, version_id: str | None = None) -> int:
        """Number of admitted replies by this version, or by all versions."""
        with self._changed:
            return self._persons.total() if version_id is None else self._versions[version_id]

    def wait_until_idle(self, seconds: float) -> None:
        """Return once no reply is admitted, or after `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._persons, seconds)
