"""Vote statistics: approval and vote rate per version, canary against deployed version, tags, days.

An approval rate comes with its exact interval and counts as unknown while the interval is wide: ten votes
cannot distinguish 60 % from 90 %. It also comes with the vote rate, because few people vote.
"""

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.chats.proportions import Interval, exact_interval, wilson_interval
from storage.chats.sums import Total, counts, how_many, totals
from storage.chats.votes import VoteCounts
from storage.db.ids import first_id
from storage.db.tables import (
    FINISHED,
    Canary,
    Chat,
    Message,
    ModelVersion,
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
        replied = col(Message.model_version_id) == version_id, col(Message.state).in_(FINISHED)
        voted = (col(Vote.message_id) == Message.id) & col(Vote.quarantined).is_(False)
        columns = func.count(sa.distinct(col(Message.id))), how_many(True), how_many(False)
        query = sa.select(*columns).join_from(Message, Chat).outerjoin(Vote, voted)
        replies, up, down = session.execute(query.where(*replied, *counts(), chats)).one()
        name = session.get_one(ModelVersion, version_id).name
        return VersionStats(name, replies, round(up), round(down))

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


def version_stats(session: Session) -> list[VersionStats]:
    """One entry per version that has replied in chats that count (`counts`), newest first."""
    found = totals(session, "version")
    versions = select(ModelVersion).where(col(ModelVersion.id).in_(found))
    return [
        VersionStats(version.name, one.replies, round(one.up), round(one.down))
        for version in session.exec(versions.order_by(col(ModelVersion.number).desc()))
        if (one := found[version.id]).replies
    ]


def tag_counts(session: Session) -> dict[str, VoteCounts]:
    """Current votes per tag in chats that count (`counts`), most used first."""
    found = totals(session, "tag")
    names = sorted(found, key=lambda name: (-found[name].up - found[name].down, name))
    return {name: VoteCounts(round(found[name].up), round(found[name].down)) for name in names}


def daily_votes(session: Session, days: int = 30) -> list[DayStats]:
    """The votes of each of the last `days` UTC days, oldest first, days without votes included.

    Leaves out votes of people who are now quarantined, and chats that do not count (`counts`).
    """
    first = now().date() - timedelta(days=days - 1)
    found = totals(session, "day", since=first.isoformat())
    span = [first + timedelta(days=n) for n in range(days)]
    stood = [(day, found.get(day.isoformat(), Total())) for day in span]
    return [DayStats(day, round(one.up), round(one.down)) for day, one in stood]


def failed_replies(session: Session, since: datetime) -> tuple[int, int]:
    """How many replies that began since that moment failed, and how many began."""
    failed = func.count().filter(col(Message.state) == "failed")
    began = (col(Message.id) > first_id(since), col(Message.role) == "assistant")  # ids sort by time
    found = session.execute(sa.select(failed, func.count()).where(*began)).one()
    return int(found[0]), int(found[1])


def count_events(session: Session, after: int, up_to: int) -> dict[str, int]:
    """Counts events with `after` < id <= `up_to`: votes set to `up` or `down`, and votes `taken_back`."""
    counted = (col(VoteEvent.id) > after, col(VoteEvent.id) <= up_to, BY_PEOPLE)
    query = select(VoteEvent.label, func.count()).where(*counted).group_by(col(VoteEvent.label))
    kinds = {True: "up", False: "down", None: "taken_back"}
    return {kinds[label]: number for label, number in session.exec(query)}
