"""Admission of replies: limits how many run or wait at once, and picks the next one fairly between people."""

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from storage.errors import Busy

T = TypeVar("T")


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
                    f"{admitted} replies are under way or waiting, which is the limit "
                    f"(max_concurrent_replies + max_waiting_replies); try again in about {wait} s.",
                    retry_after=max(1, min(wait, 60)),
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

    def admitted(self, version_id: str | None = None) -> int:
        """Number of admitted replies by this version, or by all versions."""
        with self._changed:
            return self._persons.total() if version_id is None else self._versions[version_id]

    def wait_until_idle(self, seconds: float) -> None:
        """Return once no reply is admitted, or after `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._persons, seconds)


class FairQueue(Generic[T]):
    """The person with the fewest replies under way comes first, then the one served longest ago.

    So ten replies of one person delay another person's reply by one, not by ten.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[str, T]] = []
        self._served: dict[str, int] = {}  # when each person was last served, as a counter

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, person: str, item: T) -> None:
        self._waiting.append((person, item))

    def remove(self, chosen: Callable[[T], bool]) -> list[T]:
        """Remove the chosen items without counting them as served, and return them."""
        removed = [item for _, item in self._waiting if chosen(item)]
        self._waiting = [entry for entry in self._waiting if not chosen(entry[1])]
        return removed

    def in_order(self, under_way: Mapping[str, int]) -> list[T]:
        """All waiting items, next first; `under_way` counts each person's running replies."""

        def rank(entry: tuple[str, T]) -> tuple[int, int]:
            person = entry[0]
            return under_way.get(person, 0), self._served.get(person, 0)

        return [item for _, item in sorted(self._waiting, key=rank)]

    def serve(self, item: T) -> None:
        """Remove the item and count its person as just served."""
        at = next(at for at, (_, waiting) in enumerate(self._waiting) if waiting is item)
        person, _ = self._waiting.pop(at)
        self._served[person] = max(self._served.values(), default=0) + 1
        if not self._waiting:
            self._served.clear()
