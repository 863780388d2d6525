"""Selects the examples a run learns from, and reduces their weight with age. Pure; knows no database.

Policies: `all` takes everything. `window` takes the newest rows, by days, by number or both, and optionally a
random share of older ones. `balanced` takes the newest rows up to a budget, half of each kind; if one kind
has fewer, it takes all of them and more of the other. `balanced` needs no count of the store: it reads only
the chosen rows and one more.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from storage.chats.signals import SIGNAL
from storage.examples.example import CORRECTION, PAGE, Example
from storage.examples.filters import is_brought, is_of_source
from storage.settings import Settings

# The source of examples that a run sampled itself (trainer/taste/sampled_rows.py).
SAMPLED = "sampled"
# At most this many events are drawn per replayed row. If fewer than one in eight give an example, fewer rows
# are replayed.
DRAWS = 8
# Lower bound of the age weight, so that a kind with only old rows keeps some weight.
LEAST_WEIGHT = 2.0**-10


class Feedback(Protocol):
    """The examples of a snapshot, as storage.examples.newest_first.NewestExamples gives them."""

    def of(self, label: bool, since: datetime | None = None) -> Iterator[Example]:
        """The examples with one label, newest first."""

    def at(self, event_ids: Sequence[int]) -> Iterator[Example]:
        """The examples of at most a page of vote events."""

    def count(self, label: bool, *, up_to: int | None = None, before: datetime | None = None) -> int:
        """The number of vote events with this label, up to an event id or before a moment."""


@dataclass(frozen=True)
class Choice:
    """The chosen examples in the order of their events, and the number of votes left out, by reason."""

    examples: list[Example]
    left_out: Counter[str]


def choose(feedback: Feedback, settings: Settings, *, moment: datetime) -> Choice:
    """Select the examples for a run created at `moment`. The same arguments select the same examples."""
    since = moment - timedelta(days=settings.window_days) if settings.window_days else None
    kinds = [_Kind(feedback.of(label, since), label, settings.max_rows_per_person) for label in (True, False)]
    chosen: list[Example] = []
    if settings.data_policy == "balanced":
        for kind in kinds:
            chosen.extend(kind.take(settings.row_budget // 2))
    limit = settings.row_budget or settings.window_rows
    while (not limit or len(chosen) < limit) and (newest := _newest_of(kinds)) is not None:
        chosen.extend(newest.take(1))

    left_out: Counter[str] = Counter()
    reason = f"beyond the row budget of {limit}" if settings.row_budget else "outside the window"
    for kind in kinds:
        if (following := kind.peek()) is not None:
            left_out[reason] += feedback.count(kind.label, up_to=following.event_id)
        elif since is not None:
            left_out[reason] += feedback.count(kind.label, before=since)
    replayed = _replay(feedback, settings, chosen, kinds)
    left_out[reason] -= len(replayed)
    left_out[f"more than {settings.max_rows_per_person} of a kind from one person"] = sum(
        kind.capped for kind in kinds
    )
    return Choice(sorted([*replayed, *chosen], key=_place), +left_out)


def age_weight(example: Example, settings: Settings, *, moment: datetime, on_policy: str) -> float:
    """The age factor of an example's weight: 0.5^(days / half_life_days), at least 2^-10.

    It is 1 for replies by the version `on_policy`.
    """
    if not settings.half_life_days or example.model_version == on_policy:
        return 1.0
    days = max(0.0, (moment - example.voted_at) / timedelta(days=1))
    return max(LEAST_WEIGHT, math.exp2(-min(days / settings.half_life_days, 1000.0)))


def is_vote(example: Example) -> bool:
    return example.source not in (CORRECTION, SAMPLED) and not is_of_source(example.source, SIGNAL)


def is_sampled(example: Example) -> bool:
    """Whether nobody rated this reply: a run sampled it, and the taste likes it."""
    return example.source == SAMPLED


def is_imported(example: Example) -> bool:
    """Whether the voter is unknown: imported rows, those of a judge included, share one user name."""
    return is_brought(example.origin)


class _Kind:
    """The examples of one label, newest first, without those over the limit per person."""

    def __init__(self, examples: Iterator[Example], label: bool, cap: int) -> None:
        self.examples, self.label, self.cap = examples, label, cap
        self.capped = 0
        self._given: Counter[str] = Counter()
        self._next: Example | None = None

    def peek(self) -> Example | None:
        while self._next is None and (example := next(self.examples, None)) is not None:
            if self.admits(example):
                self._next = example
            else:
                self.capped += 1
        return self._next

    def take(self, number: int) -> Iterator[Example]:
        while number and (example := self.peek()) is not None:
            self._next = None
            self.admit(example)
            yield example
            number -= 1

    def admits(self, example: Example) -> bool:
        """Whether the example is within its person's limit."""
        return not self.cap or is_imported(example) or self._given[example.user_id] < self.cap

    def admit(self, example: Example) -> None:
        self._given[example.user_id] += not is_imported(example)


def _newest_of(kinds: Sequence[_Kind]) -> _Kind | None:
    """The kind whose next example is newest, or None if no examples are left."""
    found = [(following.event_id, kind) for kind in kinds if (following := kind.peek()) is not None]
    return max(found, key=lambda one: one[0])[1] if found else None


def _replay(
    feedback: Feedback, settings: Settings, window: Sequence[Example], kinds: Sequence[_Kind]
) -> list[Example]:
    """Votes from before the window in a seeded random order, enough to make up `replay_share` of all rows."""
    share = settings.replay_share
    wanted = int(len(window) * share / (1 - share))
    if not wanted:
        return []
    before = range(1, min(example.event_id for example in window))
    drawn = random.Random(f"replay {settings.seed}").sample(before, min(len(before), DRAWS * wanted))
    of_label = {kind.label: kind for kind in kinds}
    replayed: list[Example] = []
    for start in range(0, len(drawn), PAGE):
        page = drawn[start : start + PAGE]
        found: dict[int, list[Example]] = {}
        for example in feedback.at(page):
            found.setdefault(example.event_id, []).append(example)
        for example in (one for event_id in page for one in found.get(event_id, ())):
            if len(replayed) == wanted:
                return replayed
            if of_label[example.label].admits(example):
                of_label[example.label].admit(example)
                replayed.append(example)
    return replayed


def _place(example: Example) -> tuple[bool, int, bool, str, str]:
    """Sort key: votes in the order of their events, each before its correction; then the signals."""
    is_signal = is_of_source(example.source, SIGNAL)
    return is_signal, example.event_id, example.source == CORRECTION, example.message_id, example.user_id
