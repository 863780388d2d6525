"""Turns implicit signals into KTO examples, for runs and exports that ask for their kinds."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from storage.chats.signals import DESIRABLE, SIGNAL
from storage.db.tables import Chat, Message, ModelVersion, Signal, User, VoteEvent
from storage.examples.example import PAGE, Example, example_of, has_length, matches, prompt_of
from storage.examples.filters import EVERYTHING, ExampleFilter
from storage.examples.queries import REPLY, columns, conditions, messages_before
from storage.settings.training import SignalKind


def signal_examples(
    session: Session,
    snapshot_event_id: int,
    kinds: Collection[SignalKind],
    filter: ExampleFilter = EVERYTHING,
    left_out: Counter[str] | None = None,
    *,
    newest_first: bool = False,
) -> Iterator[Example]:
    """The signals of these kinds in a snapshot, as examples with the source `signal:KIND`, oldest first.

    A person's vote on the reply overrides their signals. Of one person's signals on a reply the first counts,
    or none if they contradict each other. Deleted chats, chats without consent and quarantined people give no
    examples, even if the filter asks for them. The filter must come from storage.examples.filters.resolve.
    """
    if not kinds or filter.has_comment or filter.consent == "withheld" or filter.quarantined == "only":
        return
    query = _query(kinds, snapshot_event_id, newest_first).where(*conditions(filter, Signal))
    if filter.label is not None:
        query = query.where((col(Signal.kind) == DESIRABLE) == filter.label)
    last = (snapshot_event_id, "") if newest_first else (-1, "")
    while rows := session.execute(query, {"event": last[0], "id": last[1]}).all():
        before = messages_before(session, rows)
        for row in rows:
            example = example_of(
                row,
                prompt=prompt_of(row, before),
                label=row.kind == DESIRABLE,
                source=f"{SIGNAL}:{row.kind}",
                event_id=row.after_event_id,
            )
            tokens = len(example.token_ids) if example.token_ids is not None else None
            if not (matches(example, filter, tokens) and has_length(example, filter)):
                continue
            if reason := _taken_back(row):
                if left_out is not None:
                    left_out[reason] += 1
                continue
            yield example
        last = (rows[-1].after_event_id, rows[-1].id)


def _taken_back(row: Any) -> str:
    """Why a signal gives no example, in the words of storage.examples.example; '' if it gives one."""
    if row.deleted_at is not None:
        return "deleted chat"
    if not row.consent:
        return "no consent"
    return "quarantined person" if row.set_aside else ""


def _query(kinds: Collection[SignalKind], snapshot: int, newest_first: bool) -> sa.Select[*tuple[Any, ...]]:
    other = aliased(Signal)
    opposite = (col(other.kind) == DESIRABLE) != (col(Signal.kind) == DESIRABLE)
    overruled = (
        sa.select(col(other.id))
        .where(
            col(other.message_id) == Signal.message_id,
            col(other.user_id) == Signal.user_id,
            col(other.kind).in_(kinds),
            col(other.after_event_id) < snapshot,
            opposite | (col(other.id) < col(Signal.id)),
        )
        .exists()
    )
    vote = (
        sa.select(col(VoteEvent.label))
        .where(
            col(VoteEvent.message_id) == Signal.message_id,
            col(VoteEvent.user_id) == Signal.user_id,
            col(VoteEvent.id) <= snapshot,
        )
        .order_by(col(VoteEvent.id).desc())
        .limit(1)
        .scalar_subquery()
    )
    order = (col(Signal.after_event_id), col(Signal.id))
    place = sa.tuple_(*order)
    last = sa.tuple_(sa.bindparam("event", type_=sa.Integer()), sa.bindparam("id", type_=sa.String()))
    return (
        sa.select(
            *columns(Signal, "id", "kind", "message_id", "user_id", "after_event_id", "created_at"),
            *REPLY,
            col(Message.token_ids),
            col(User.quarantined).label("set_aside"),
        )
        .join_from(Signal, Message)
        .join(Chat)
        .join(User, col(User.id) == Signal.user_id)
        .outerjoin(ModelVersion)
        .where(
            col(Signal.kind).in_(kinds),
            col(Signal.after_event_id) < snapshot,
            col(Message.content) != "",
            vote.is_(None),
            ~overruled,
            place < last if newest_first else place > last,
        )
        .order_by(*(column.desc() if newest_first else column for column in order))
        .limit(PAGE)
    )
