"""Vote statistics: approval and vote rate per version, canary against deployed version, tags, days.

An approval rate comes with its exact interval and counts as unknown while the interval is wide: ten votes
cannot distinguish 60 % from 90 %. It also comes with the vote rate, because few people vote.
"""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.chats.proportions import Interval, exact_interval, wilson_interval
from storage.chats.votes import VoteCounts, how_many
from storage.db.ids import first_id
from storage.db.tables import (
    BROUGHT,
    FINISHED,
    Canary,
    Chat,
    Message,
    ModelVersion,
    User,
    Vote,
    VoteEvent,
    now,
)

WIDEST_INTERVAL = 0.3
UP, DOWN = how_many(True), how_many(False)
BY_PEOPLE = col(VoteEvent.action).in_(("cast", "change", "clear"))  # not by quarantine or erasure


@dataclass(frozen=True)
class VersionStats:
    """Votes on the finished replies of one version. Rates are from 0 to 1, or None without data."""

    version: str
    replies: int
    up: int
    down: int

    @property
    def approval(self) -> float | None:
        return self.up / (self.up + self.down) if self.up + self.down else None

    @property
    def interval(self) -> Interval:
        return exact_interval(self.up, self.up + self.down)

    @property
    def enough_votes(self) -> bool:
        return self.interval.high - self.interval.low <= WIDEST_INTERVAL

    @property
    def vote_rate(self) -> float | None:
        return (self.up + self.down) / self.replies if self.replies else None


@dataclass(frozen=True)
class DayStats:
    """The votes cast or changed on one UTC day, each counted once, as it stood at the end of the day."""

    day: date
    up: int
    down: int


def canary_stats(session: Session, canary: Canary) -> tuple[VersionStats, VersionStats]:
    """The statistics of the canary and of the version it is compared with, each in its own chats."""
    given, others = canary_sides(canary)

    def of(version_id: str, chats: sa.ColumnElement[bool]) -> VersionStats:
        found = version_stats(session, col(ModelVersion.id) == version_id, chats)
        return found[0] if found else VersionStats(session.get_one(ModelVersion, version_id).name, 0, 0, 0)

    return of(canary.version_id, given), of(canary.compared_with_id, others)


def canary_sides(canary: Canary) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    """The chats of the canary, and those that began since then and were not given to it.

    So both cover the same days and people.
    """
    return (
        col(Chat.canary_id) == canary.id,
        col(Chat.canary_id).is_(None) & (col(Chat.id) > canary.id),  # ids sort by time
    )


def difference_interval(one: VersionStats, other: VersionStats) -> Interval | None:
    """The 95 % interval of the first approval minus the second (Newcombe 1998, method 10).

    None unless both have votes. It assumes independent votes, which one person's are not quite.
    """
    p, q = one.approval, other.approval
    if p is None or q is None:
        return None
    a, b = wilson_interval(one.up, one.up + one.down), wilson_interval(other.up, other.up + other.down)
    return Interval(
        p - q - math.hypot(p - a.low, b.high - q),
        p - q + math.hypot(a.high - p, q - b.low),
    )


def version_stats(session: Session, *conditions: sa.ColumnElement[bool]) -> list[VersionStats]:
    """One entry per version that has replied in chats that count (`counts`), newest first."""
    rows = session.exec(
        select(ModelVersion.number, func.count(sa.distinct(col(Message.id))), UP, DOWN)
        .select_from(ModelVersion)
        .join(Message)
        .join(Chat)
        .outerjoin(Vote, (col(Vote.message_id) == Message.id) & col(Vote.quarantined).is_(False))
        .where(col(Message.state).in_(FINISHED), *counts(), *conditions)
        .group_by(col(ModelVersion.number))
        .order_by(col(ModelVersion.number).desc())
    )
    return [VersionStats(f"v{number}", replies, round(up), round(down)) for number, replies, up, down in rows]


def tag_counts(session: Session) -> dict[str, VoteCounts]:
    """Current votes per tag in chats that count (`counts`), most used first."""
    each = func.json_each if session.get_bind().dialect.name == "sqlite" else func.json_array_elements_text
    tag = each(col(Vote.tags)).table_valued("value").c.value
    rows = session.execute(
        sa.select(tag, UP, DOWN)
        .join_from(Vote, Message)
        .join(Chat)
        .join(tag.table, sa.true())
        .where(col(Vote.label).is_not(None), col(Vote.quarantined).is_(False), *counts())
        .group_by(tag)
        .order_by((UP + DOWN).desc(), tag)
    )
    return {name: VoteCounts(round(ups), round(downs)) for name, ups, downs in rows}


def daily_votes(session: Session, days: int = 30) -> list[DayStats]:
    """The votes of each of the last `days` UTC days, oldest first, days without votes included.

    Leaves out votes of people who are now quarantined, and chats that do not count (`counts`).
    """
    today = now().date()
    first = today - timedelta(days=days - 1)
    day = func.date(col(VoteEvent.created_at))
    # A tag or comment added after the thumb changes the same vote; it is not another one.
    last = (
        select(func.max(VoteEvent.id))
        .where(col(VoteEvent.created_at) >= datetime.combine(first, time.min, UTC), BY_PEOPLE)
        .group_by(day, col(VoteEvent.message_id), col(VoteEvent.user_id))
    )
    rows = session.exec(
        select(day, how_many(True, VoteEvent), how_many(False, VoteEvent))
        .select_from(VoteEvent)
        .join(Message)
        .join(Chat)
        .where(
            col(VoteEvent.id).in_(last),
            col(VoteEvent.label).is_not(None),
            col(VoteEvent.user_id).not_in(select(User.id).where(col(User.quarantined))),
            *counts(),
        )
        .group_by(day)
    )
    found = {date.fromisoformat(str(when)): (round(up), round(down)) for when, up, down in rows}
    span = [first + timedelta(days=n) for n in range(days)]
    return [DayStats(when, *found.get(when, (0, 0))) for when in span]


def failed_replies(session: Session, since: datetime) -> tuple[int, int]:
    """How many replies that began since that moment failed, and how many began."""
    failed = func.count().filter(col(Message.state) == "failed")
    began = (col(Message.id) > first_id(since), col(Message.role) == "assistant")  # ids sort by time
    found = session.execute(sa.select(failed, func.count()).where(*began)).one()
    return int(found[0]), int(found[1])


def counts() -> tuple[sa.ColumnElement[bool], ...]:
    """The chats that count: not deleted, and not of a file or judge, which say nothing of our versions."""
    brought = (col(Chat.source).startswith(source) for source in BROUGHT)
    return col(Chat.deleted_at).is_(None), *(~one for one in brought)


def count_events(session: Session, after: int, up_to: int) -> dict[str, int]:
    """Counts events with `after` < id <= `up_to`: votes set to `up` or `down`, and votes `taken_back`."""
    counted = (col(VoteEvent.id) > after, col(VoteEvent.id) <= up_to, BY_PEOPLE)
    query = select(VoteEvent.label, func.count()).where(*counted).group_by(col(VoteEvent.label))
    kinds = {True: "up", False: "down", None: "taken_back"}
    return {kinds[label]: number for label, number in session.exec(query)}
