"""The SQL of snapshots: the votes that are current as of an event, and the messages before their replies.

The queries of a page use primary keys and the index of vote_event on (message, user), so their cost depends
on the size of the page, not of the store.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select

from storage.db.tables import Chat, Message, ModelVersion, Table, VoteEvent
from storage.examples.filters import ExampleFilter
from storage.registry.lineage import ERASED


def columns(table: type[Table], *names: str) -> list[Any]:
    return [getattr(table, name) for name in names]


# The columns of a rated reply and its chat that votes and signals both need.
REPLY = (
    *columns(Message, "parent_id", "messages_left_out", "chat_id", "content"),
    col(ModelVersion.number).label("version"),
    *columns(Chat, "source", "system_prompt", "consent", "deleted_at"),
)


def next_event(session: Session, after: int, snapshot_event_id: int) -> int | None:
    """The id of the snapshot's first event after `after`, if any."""
    event_id = col(VoteEvent.id)
    query = select(func.min(event_id)).where(event_id > after, event_id <= snapshot_event_id)
    return session.exec(query).one()


def newest_events(
    session: Session,
    label: bool,
    before: int,
    *,
    limit: int,
    since: datetime | None = None,
    corrections: bool = False,
) -> list[int]:
    """The ids of the newest events with this label below `before`, newest first.

    With `corrections`, also events of any label that have a correction. Without, an index alone suffices.
    """
    wanted: sa.ColumnElement[bool] = col(VoteEvent.label).is_(label)
    if corrections:
        wanted = wanted | col(VoteEvent.correction).is_not(None)
    query = select(VoteEvent.id).where(wanted, col(VoteEvent.id) < before)
    if since is not None:
        query = query.where(col(VoteEvent.created_at) >= since)
    found = session.exec(query.order_by(col(VoteEvent.id).desc()).limit(limit))
    return [event_id for event_id in found if event_id is not None]


def count_events(session: Session, label: bool, up_to: int, *, before: datetime | None = None) -> int:
    """How many events have this label, including those superseded by later ones."""
    query = select(func.count()).where(col(VoteEvent.label).is_(label), col(VoteEvent.id) <= up_to)
    if before is not None:
        query = query.where(col(VoteEvent.created_at) < before)
    return session.exec(query).one()


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
    query = (
        sa.select(
            *columns(VoteEvent, "id", "message_id", "user_id", "action", "label", "created_at"),
            *columns(VoteEvent, "tags", "comment", "correction"),
            *REPLY,
            col(Message.token_ids) if token_ids else sa.null().label("token_ids"),
            counted.label("token_count"),
        )
        .select_from(VoteEvent)
        .join(Message, col(Message.id) == VoteEvent.message_id)
        .join(Chat, col(Chat.id) == Message.chat_id)
        .outerjoin(ModelVersion, col(ModelVersion.id) == Message.model_version_id)
        .where(
            col(VoteEvent.id).in_(sa.bindparam("ids", expanding=True)),
            col(VoteEvent.label).is_not(None) | (col(VoteEvent.action) == ERASED),
            col(VoteEvent.id) == latest,
        )
        .order_by(col(VoteEvent.id))
    )
    return query.where(*_conditions(filter))


def messages_up_to(session: Session, ids: set[str]) -> dict[str, Any]:
    """These messages and all their ancestors by id, one query per generation, each by primary key."""
    found: dict[str, Any] = {}
    query = sa.select(col(Message.id), col(Message.parent_id), col(Message.role), col(Message.content)).where(
        col(Message.id).in_(sa.bindparam("ids", expanding=True))
    )
    while ids:
        rows = session.execute(query, {"ids": sorted(ids)}).all()
        found |= {row.id: row for row in rows}
        ids = {row.parent_id for row in rows if row.parent_id is not None} - found.keys()
    return found


def _conditions(filter: ExampleFilter) -> Iterator[sa.ColumnElement[bool]]:
    """The filters that SQL can check; the others are checked on each example."""
    if filter.quarantined != "any":
        yield col(VoteEvent.quarantined).is_(filter.quarantined == "only")
    if filter.from_date is not None:
        yield col(VoteEvent.created_at) >= filter.from_date
    if filter.to_date is not None:
        yield col(VoteEvent.created_at) <= filter.to_date
    if filter.user is not None:
        yield col(VoteEvent.user_id) == filter.user
    if filter.version_number is not None:
        yield col(ModelVersion.number) == filter.version_number
    if filter.has_comment is not None:
        without = func.trim(func.coalesce(VoteEvent.comment, "")) == ""
        yield ~without if filter.has_comment else without
