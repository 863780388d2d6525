"""Examples in order from the newest, for runs that do not learn from all of them.

They are read lazily, one page of one label at a time, so the cost depends on how many rows are wanted, not on
the store's size.
"""

import heapq
from collections.abc import Collection, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, func, select

from storage.db.tables import VoteEvent
from storage.examples.example import PAGE, Example, Examples
from storage.examples.filters import EVERYTHING, ExampleFilter, is_of_source
from storage.settings.training import SignalKind


@dataclass(frozen=True)
class NewestExamples:
    """The examples of a snapshot, newest first, without those from the sources in `exclude`."""

    session: Session
    snapshot_event_id: int
    _: KW_ONLY
    corrections: bool = False
    signals: Collection[SignalKind] = ()
    exclude: Collection[str] = ()

    def of(self, label: bool, since: datetime | None = None) -> Iterator[Example]:
        """Examples with this label since that moment, newest first: votes, corrections and signals."""
        examples = self._examples(ExampleFilter(label=label, from_date=since))
        signals = examples.signals(self.signals, newest_first=True)
        # With equal event ids, the signal is newer than the vote event.
        feedback = (signals, self._votes(examples, label, since))
        merged = heapq.merge(*feedback, key=lambda one: one.event_id, reverse=True)
        return filter(self._is_wanted, merged)

    def at(self, event_ids: Sequence[int]) -> Iterator[Example]:
        """The examples of these events (at most PAGE), in the order of their ids."""
        return filter(self._is_wanted, self._examples(EVERYTHING).at(event_ids))

    def count(self, label: bool, *, up_to: int | None = None, before: datetime | None = None) -> int:
        """How many vote events have this label, up to an event's id or before a moment.

        This counts index entries, so it includes superseded votes and votes that training may not use.
        """
        last = self.snapshot_event_id if up_to is None else up_to
        query = select(func.count()).where(col(VoteEvent.label).is_(label), col(VoteEvent.id) <= last)
        if before is not None:
            query = query.where(col(VoteEvent.created_at) < before)
        return self.session.exec(query).one()

    def _votes(self, examples: Examples, label: bool, since: datetime | None) -> Iterator[Example]:
        wanted: Any = col(VoteEvent.label).is_(label)  # for which an index alone suffices
        if self.corrections and label:  # a correction is a desirable example
            wanted |= col(VoteEvent.correction).is_not(None)
        newest: Any = select(VoteEvent.id).where(wanted).order_by(col(VoteEvent.id).desc()).limit(PAGE)
        if since is not None:
            newest = newest.where(col(VoteEvent.created_at) >= since)
        before = self.snapshot_event_id + 1
        while page := self.session.exec(newest.where(col(VoteEvent.id) < before)).all():
            yield from reversed(list(examples.at(page)))
            before = page[-1]

    def _examples(self, filter: ExampleFilter) -> Examples:
        return Examples(self.session, self.snapshot_event_id, filter, corrections=self.corrections)

    def _is_wanted(self, example: Example) -> bool:
        return not any(
            is_of_source(source, wanted)
            for wanted in self.exclude
            for source in (example.source, example.origin)
        )
