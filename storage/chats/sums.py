"""Sums of votes and replies, kept by the time of the reply, so that statistics need not read all of them.

They are kept for each `bucket`, the beginning of the reply's id, which stands for 17 minutes. The log of
votes says in which buckets votes have changed; of replies, chats and people triggers note it (migration
0022). `keep` counts those buckets again and stores their sums. Until then `totals` counts them itself, so
that it is always exact.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.db.tables import (
    BROUGHT,
    FINISHED,
    ChangedSum,
    Chat,
    Message,
    SumCursor,
    User,
    Vote,
    VoteEvent,
    VoteSum,
)

# Votes that training may use, by source; those in chats that count, by version (its id), tag and UTC day.
Kind = Literal["source", "version", "tag", "day"]
Counted = sa.Select[Any]

BUCKET = 7  # hexadecimal digits
AT_ONCE = 20  # buckets that `keep` counts in one transaction, which writers of SQLite wait for
FEW = 200  # buckets that `totals` counts itself; beyond that, counting everything takes no longer
KEEP_LOCK = 7_463_553  # the key of an advisory lock, any constant


@dataclass(frozen=True)
class Total:
    """Finished replies, of versions alone, and votes: a part of one on a whole chat is its share of one."""

    replies: int = 0
    up: float = 0.0
    down: float = 0.0


def totals(session: Session, kind: Kind, since: str = "") -> dict[str, Total]:
    """By name, of the names from `since` on. The session is one of `Database.read`: it sees one state."""
    changed = _changed(session)
    found: list[Sequence[Any]] = []
    if len(changed) > FEW:
        found += session.execute(_count(session, kind, None)).all()
    else:
        kept = (col(VoteSum.kind) == kind, col(VoteSum.name) >= since, col(VoteSum.bucket).not_in(changed))
        added_up = [func.sum(number) for number in (VoteSum.replies, VoteSum.up, VoteSum.down)]
        columns: list[Any] = [sa.null(), VoteSum.name, *added_up]
        query = sa.select(*columns).where(*kept).group_by(col(VoteSum.name))
        found += session.execute(query).all()
        found += session.execute(_count(session, kind, changed)).all() if changed else []
    added: dict[str, Total] = {}
    for _, name, replies, up, down in found:
        if name >= since:
            before = added.get(name, Total())
            added[name] = Total(before.replies + int(replies), before.up + up, before.down + down)
    return added


def keep(session: Session) -> bool:
    """Store the sums of up to AT_ONCE buckets that have changed; whether there are more."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(func.pg_advisory_xact_lock(KEEP_LOCK)))
    newest = session.exec(select(func.max(VoteEvent.id))).one() or 0
    cursor = session.get_one(SumCursor, 1)
    voted = _voted_after(cursor.event_id).where(col(VoteEvent.id) <= newest)
    session.execute(sa.insert(ChangedSum).from_select(["bucket"], voted))
    cursor.event_id = newest
    found = _changed(session)
    changed = found[:AT_ONCE]
    if changed:
        # Before counting: what is committed from now on is noted again, and counted again.
        for table in (ChangedSum, VoteSum):
            session.execute(sa.delete(table).where(col(table.bucket).in_(changed)))
        for kind in get_args(Kind):
            counted = _count(session, kind, changed).subquery()
            columns = {"kind": sa.literal(kind), **dict(counted.c.items())}
            session.execute(sa.insert(VoteSum).from_select([*columns], sa.select(*columns.values())))
    return len(found) > AT_ONCE


def forget_changed(session: Session) -> None:
    """Remove the sums of buckets that have changed: their tags may be erased ones."""
    session.execute(sa.delete(VoteSum).where(col(VoteSum.bucket).in_(select(ChangedSum.bucket))))


def how_many(label: bool, table: type[Vote | VoteEvent] = Vote) -> sa.ColumnElement[float]:
    """How many votes have this label: a part of a vote on a whole chat counts as its share of one."""
    return func.coalesce(func.sum(func.coalesce(table.share, 1.0)).filter(col(table.label).is_(label)), 0.0)


def usable() -> tuple[sa.ColumnElement[bool], ...]:
    """The votes that training may use: not quarantined, in chats with consent that are not deleted."""
    chat = (col(Chat.deleted_at).is_(None), col(Chat.consent).is_(True))
    return col(Vote.label).is_not(None), col(Vote.quarantined).is_(False), *chat


def counts() -> tuple[sa.ColumnElement[bool], ...]:
    """The chats that count: not deleted, and not of a file or judge, which say nothing of our versions."""
    brought = (col(Chat.source).startswith(source) for source in BROUGHT)
    return col(Chat.deleted_at).is_(None), *(~one for one in brought)


def _changed(session: Session) -> list[str]:
    """The buckets that may have changed since they were kept; of very many, the first ones."""
    voted = _voted_after(select(SumCursor.event_id).scalar_subquery())
    changed = sa.union(select(ChangedSum.bucket), voted).order_by("bucket").limit(FEW + 1)
    return list(session.execute(changed).scalars())


def _voted_after(event_id: Any) -> sa.Select[Any]:
    """The buckets whose votes have changed. Event ids are committed in order (`lock_vote_log`)."""
    return sa.select(_bucket(VoteEvent.message_id)).distinct().where(col(VoteEvent.id) > event_id)


def _bucket(message_id: Any) -> sa.Label[str]:
    # Literals: PostgreSQL does not see that two parameters are equal, and groups by this.
    return func.substr(message_id, sa.literal_column("1"), sa.literal_column(str(BUCKET))).label("bucket")


def _count(session: Session, kind: Kind, changed: Sequence[str] | None) -> Counted:
    """A query of the bucket, name, replies, up and down, of these buckets or of all."""
    number = {"source": _by_source, "version": _by_version, "tag": _by_tag, "day": _by_day}[kind]
    return number(session, changed)


def _by_source(_: Session, changed: Sequence[str] | None) -> Counted:
    columns = _columns(Vote.message_id, Chat.source)
    return _grouped(
        sa.select(*columns).join_from(Vote, Message).join(Chat), changed, Vote.message_id, *usable()
    )


def _by_version(_: Session, changed: Sequence[str] | None) -> Counted:
    columns = _columns(Message.id, Message.model_version_id, func.count(sa.distinct(col(Message.id))))
    current = (col(Vote.message_id) == Message.id) & col(Vote.quarantined).is_(False)
    query = sa.select(*columns).join_from(Message, Chat).outerjoin(Vote, current)
    replied = col(Message.model_version_id).is_not(None), col(Message.state).in_(FINISHED)
    return _grouped(query, changed, Message.id, *replied, *counts())


def _by_tag(session: Session, changed: Sequence[str] | None) -> Counted:
    each = func.json_each if session.get_bind().dialect.name == "sqlite" else func.json_array_elements_text
    tag = each(col(Vote.tags)).table_valued("value").c.value
    query = sa.select(*_columns(Vote.message_id, tag)).join_from(Vote, Message).join(Chat)
    standing = col(Vote.label).is_not(None), col(Vote.quarantined).is_(False)
    return _grouped(query.join(tag.table, sa.true()), changed, Vote.message_id, *standing, *counts())


def _by_day(_: Session, changed: Sequence[str] | None) -> Counted:
    """Each vote as it stood at the end of the day, without those of people who are quarantined now."""
    day = sa.cast(func.date(col(VoteEvent.created_at)), sa.String)
    by_people = col(VoteEvent.action).in_(("cast", "change", "clear"))  # not by quarantine or erasure
    # A tag or comment added after the thumb changes the same vote; it is not another one.
    last = select(func.max(VoteEvent.id)).where(by_people, _within(VoteEvent.message_id, changed))
    query = sa.select(*_columns(VoteEvent.message_id, day, table=VoteEvent)).join_from(VoteEvent, Message)
    standing = (
        col(VoteEvent.id).in_(last.group_by(day, col(VoteEvent.message_id), col(VoteEvent.user_id))),
        col(VoteEvent.label).is_not(None),
        col(VoteEvent.user_id).not_in(select(User.id).where(col(User.quarantined))),
    )
    return _grouped(query.join(Chat), changed, VoteEvent.message_id, *standing, *counts())


def _columns(
    message_id: Any, name: Any, replies: Any = sa.literal_column("0"), table: type[Vote | VoteEvent] = Vote
) -> Iterator[sa.Label[Any]]:
    values = name, replies, how_many(True, table), how_many(False, table)
    yield _bucket(message_id)
    for label, value in zip(("name", "replies", "up", "down"), values, strict=True):
        yield sa.label(label, value)


def _grouped(query: Counted, changed: Sequence[str] | None, message_id: Any, *conditions: Any) -> Counted:
    bucket, name = list(query.selected_columns)[:2]
    return query.where(_within(message_id, changed), *conditions).group_by(bucket, name)


def _within(message_id: Any, changed: Sequence[str] | None) -> sa.ColumnElement[bool]:
    """Whether the id begins with one of these; None: with any."""
    if changed is None:
        return sa.true()
    # Neighbours as one range. "g" sorts after every hexadecimal digit.
    ends = [(first, last + "g") for first, last in _runs(sorted(changed))]
    return sa.or_(*(col(message_id).between(first, last) for first, last in ends))


def _runs(ordered: Sequence[str]) -> Iterator[tuple[str, str]]:
    """First and last of those that follow each other without a gap."""
    for _, run in itertools.groupby(enumerate(ordered), lambda one: int(one[1], 16) - one[0]):
        buckets = [bucket for _, bucket in run]
        yield buckets[0], buckets[-1]
