"""The SQL of snapshots: the votes and signals that count as of an event, and the messages before a reply.

The queries of a page use primary keys and the index of vote_event on (message, user), so their cost depends
on the size of the page, not of the store.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func

from storage.chats.signals import DESIRABLE
from storage.chats.tools import TOOL_ROLES
from storage.db.tables import Chat, Message, ModelVersion, Signal, Table, User, Vote, VoteEvent
from storage.examples.filters import ExampleFilter, RatedFilter
from storage.registry.lineage import ERASED
from storage.settings.training import SignalKind


def columns(table: type[Table], *names: str) -> list[Any]:
    return [getattr(table, name) for name in names]


# The columns of a rated reply and its chat that votes and signals both need.
REPLY = (
    *columns(Message, "parent_id", "messages_left_out", "chat_id", "content", "reasoning", "finish_reason"),
    col(ModelVersion.number).label("version"),
    *columns(Chat, "source", "system_prompt", "consent", "deleted_at"),
)


def standing_votes(filter: ExampleFilter, *, token_ids: bool) -> sa.Select[*tuple[Any, ...]]:
    """Among the events :ids, the votes current as of :snapshot or erased, with their replies and chats.

    A list of ids, unlike a range, shows PostgreSQL how few rows there are even without statistics, so it
    never scans a table for a page.
    """
    later = aliased(VoteEvent)
    # A scalar subquery instead of NOT EXISTS: this is an index look-up per event, where PostgreSQL would hash
    # all events for each page of a small store.
    latest = (
        sa.select(func.max(col(later.id)))
        .where(
            col(later.message_id) == VoteEvent.message_id,
            col(later.user_id) == VoteEvent.user_id,
            col(later.id) <= sa.bindparam("snapshot"),
        )
        .scalar_subquery()
    )
    counted = func.json_array_length(Message.token_ids) if filter.counts_tokens else sa.null()
    return (
        sa.select(
            *columns(VoteEvent, "id", "message_id", "user_id", "action", "label", "created_at"),
            *columns(VoteEvent, "tags", "comment", "correction", "share"),
            *REPLY,
            col(Message.token_ids) if token_ids else sa.null().label("token_ids"),
            counted.label("token_count"),
        )
        .join_from(VoteEvent, Message)
        .join(Chat)
        .outerjoin(ModelVersion)
        .where(
            col(VoteEvent.id).in_(sa.bindparam("ids", expanding=True)),
            col(VoteEvent.label).is_not(None) | (col(VoteEvent.action) == ERASED),
            col(VoteEvent.id) == latest,
            *_of_votes(filter),
            *rated_conditions(filter, VoteEvent, col(VoteEvent.created_at)),
        )
        .order_by(col(VoteEvent.id))
    )


def standing_signals(
    kinds: Collection[SignalKind], snapshot: int, filter: ExampleFilter, *, page: int, newest_first: bool
) -> sa.Select[*tuple[Any, ...]]:
    """A page of the signals that no vote overrides and none contradicts, after the place (:event, :id)."""
    conditions = [*rated_conditions(filter, Signal, col(Signal.created_at))]
    if filter.label is not None:
        conditions.append((col(Signal.kind) == DESIRABLE) == filter.label)
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
            *conditions,
        )
        .order_by(*(column.desc() if newest_first else column for column in order))
        .limit(page)
    )


def rated_conditions(
    filter: RatedFilter, table: type[Vote | VoteEvent | Signal], moment: Any
) -> Iterator[sa.ColumnElement[bool]]:
    """The filters that SQL can check on votes and on signals, whose time is in the column `moment`."""
    if filter.from_date is not None:
        yield moment >= filter.from_date
    if filter.to_date is not None:
        yield moment <= filter.to_date
    if filter.user is not None:
        yield col(table.user_id) == filter.user
    if filter.version_number is not None:
        yield col(ModelVersion.number) == filter.version_number


def messages_before(session: Session, replies: Iterable[Any]) -> dict[str, Any]:
    """All ancestors of these replies by id, one query per generation, each by primary key."""
    found: dict[str, Any] = {}
    query = sa.select(*columns(Message, "id", "parent_id", "role", "content", "reasoning")).where(
        col(Message.id).in_(sa.bindparam("ids", expanding=True))
    )
    while ids := {row.parent_id for row in replies if row.parent_id is not None} - found.keys():
        replies = session.execute(query, {"ids": sorted(ids)}).all()
        found |= {row.id: row for row in replies}
    return found


def has_reasoning(session: Session, snapshot: int) -> bool:
    """Whether a reply that is rated in this snapshot, or a message before it, has reasoning."""
    return _is_rated_after(session, col(Message.reasoning).is_not(None), snapshot)


def has_tools_before(session: Session, snapshot: int) -> bool:
    """Whether tools stand before a reply that is rated in this snapshot."""
    return _is_rated_after(session, col(Message.role).in_(TOOL_ROLES), snapshot)


def has_shares(session: Session, snapshot: int) -> bool:
    """Whether a vote of this snapshot is a part of one on a whole chat."""
    later = aliased(VoteEvent)
    changed = (
        sa.select(col(later.id))
        .where(
            col(later.message_id) == VoteEvent.message_id,
            col(later.user_id) == VoteEvent.user_id,
            col(later.id) > VoteEvent.id,
            col(later.id) <= snapshot,
        )
        .exists()
    )
    parts = col(VoteEvent.share) < 1, col(VoteEvent.id) <= snapshot, ~changed
    return session.execute(sa.select(col(VoteEvent.id)).where(*parts).limit(1)).first() is not None


def _is_rated_after(session: Session, such: sa.ColumnElement[bool], snapshot: int) -> bool:
    """Whether such a message, or one after it, is rated in this snapshot."""
    found = sa.select(col(Message.id)).where(such).cte(recursive=True)
    later = found.union(sa.select(col(Message.id)).join(found, col(Message.parent_id) == found.c.id))
    rated = sa.select(col(VoteEvent.id)).where(
        col(VoteEvent.message_id) == later.c.id, col(VoteEvent.id) <= snapshot
    )
    noticed = sa.select(col(Signal.id)).where(
        col(Signal.message_id) == later.c.id, col(Signal.after_event_id) < snapshot
    )
    query = sa.select(later.c.id).where(rated.exists() | noticed.exists()).limit(1)
    return session.execute(query).first() is not None


def _of_votes(filter: ExampleFilter) -> Iterator[sa.ColumnElement[bool]]:
    if filter.quarantined != "any":
        yield col(VoteEvent.quarantined).is_(filter.quarantined == "only")
    yield from comment_conditions(filter, VoteEvent)


def comment_conditions(
    filter: RatedFilter, table: type[Vote | VoteEvent]
) -> Iterator[sa.ColumnElement[bool]]:
    """The filter of votes with or without a comment."""
    if filter.has_comment is not None:
        without = func.trim(func.coalesce(table.comment, "")) == ""
        yield ~without if filter.has_comment else without
