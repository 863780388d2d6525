"""What the votes say: approval and vote rate per model version, tags, and days.

An approval rate comes with its Wilson interval and is called unknown while that is wide: ten thumbs
do not tell 60 % from 90 %. The vote rate stands beside it, because few who vote are not all who chat.
"""

import math
from dataclasses import dataclass
from datetime import date, timedelta

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.tables import Chat, Message, ModelVersion, User, Vote, VoteEvent, now

WIDEST_INTERVAL = 0.3
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class VersionStats:
    """Votes on the finished replies of one version; rates are shares from 0 to 1, None without votes."""

    version: str
    replies: int
    up: int
    down: int

    @property
    def approval(self) -> float | None:
        return self.up / (self.up + self.down) if self.up + self.down else None

    @property
    def interval(self) -> Interval:
        return wilson_interval(self.up, self.up + self.down)

    @property
    def enough_votes(self) -> bool:
        return self.interval.high - self.interval.low <= WIDEST_INTERVAL

    @property
    def vote_rate(self) -> float | None:
        return (self.up + self.down) / self.replies if self.replies else None


@dataclass(frozen=True)
class DayStats:
    """The votes that were cast or changed on one UTC day, each once, as they stood at its end."""

    day: date
    up: int
    down: int


def wilson_interval(successes: int, trials: int, z: float = Z95) -> Interval:
    """The Wilson score interval of a share (Wilson 1927); [0, 1] without trials."""
    if trials == 0:
        return Interval(0.0, 1.0)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def version_stats(session: Session) -> list[VersionStats]:
    """One entry per version that has replied, newest version first; imported chats are left out."""
    voted = sa.case((col(Vote.label).is_(True), 1), else_=0)
    refused = sa.case((col(Vote.label).is_(False), 1), else_=0)
    rows = session.exec(
        select(
            ModelVersion.number,
            func.count(sa.distinct(col(Message.id))),
            func.coalesce(func.sum(voted), 0),
            func.coalesce(func.sum(refused), 0),
        )
        .join(Message, col(Message.model_version_id) == ModelVersion.id)
        .join(Chat, col(Chat.id) == Message.chat_id)
        .outerjoin(Vote, (col(Vote.message_id) == Message.id) & col(Vote.quarantined).is_(False))
        .where(col(Message.state).in_(("complete", "stopped")), col(Chat.deleted_at).is_(None))
        .group_by(col(ModelVersion.number))
        .order_by(col(ModelVersion.number).desc())
    )
    return [VersionStats(f"v{number}", replies, up, down) for number, replies, up, down in rows]


def tag_counts(session: Session) -> dict[str, tuple[int, int]]:
    """Current votes (up, down) per tag, most used first; quarantined ones are left out."""
    counts: dict[str, list[int]] = {}
    standing = select(Vote.label, Vote.tags).where(
        col(Vote.label).is_not(None), col(Vote.quarantined).is_(False)
    )
    for label, tags in session.exec(standing):
        for tag in tags:
            counts.setdefault(tag, [0, 0])[0 if label else 1] += 1
    return {tag: (up, down) for tag, (up, down) in sorted(counts.items(), key=lambda item: -sum(item[1]))}


def daily_votes(session: Session, days: int = 30) -> list[DayStats]:
    """What was voted on each of the last `days` UTC days, oldest first, empty days included.

    Votes of people who are quarantined now are left out.
    """
    today = now().date()
    first = today - timedelta(days=days - 1)
    day = func.date(col(VoteEvent.created_at))
    # A tag or a comment that follows a thumb is a change of the same vote, not another one.
    last = (
        select(func.max(VoteEvent.id))
        .where(day >= _comparable(session, first), col(VoteEvent.action).in_(("cast", "change", "clear")))
        .group_by(day, col(VoteEvent.message_id), col(VoteEvent.user_id))
    )
    rows = session.exec(
        select(day, VoteEvent.label, func.count())
        .where(
            col(VoteEvent.id).in_(last),
            col(VoteEvent.label).is_not(None),
            col(VoteEvent.user_id).not_in(select(User.id).where(col(User.quarantined))),
        )
        .group_by(day, col(VoteEvent.label))
    )
    found = {(date.fromisoformat(str(when)), label): count for when, label, count in rows}
    span = [first + timedelta(days=n) for n in range(days)]
    return [DayStats(when, found.get((when, True), 0), found.get((when, False), 0)) for when in span]


def _comparable(session: Session, day: date) -> date | str:
    return day.isoformat() if session.get_bind().dialect.name == "sqlite" else day
