"""Erasure of a person's data, and of old chats: text and votes are removed, empty rows stay.

Rows keep their ids, so that lineage stays readable, but lose their content. An erased vote counts in no
snapshot. A model trained on it still remembers it: each such version is marked, and only a retrain from the
base model without those votes forgets.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session, SQLModel, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from storage.chats.sums import forget_changed
from storage.chats.votes import lock_vote_log
from storage.db import audit
from storage.db.database import Database
from storage.db.rows import count_changed
from storage.db.tables import (
    ApiToken,
    Chat,
    Identity,
    Message,
    Review,
    SetAsideVote,
    Signal,
    User,
    Vote,
    VoteEvent,
    now,
)
from storage.db.text_index import forget_old_texts
from storage.errors import Conflict
from storage.exports.exporter import remove_exports
from storage.people.users import get_user
from storage.registry.lineage import ERASED, Key, mark_affected, versions_trained_on

ERASED_MESSAGE = "erased"  # the state of an erased message
BATCH = 200  # chats; votes wait no longer than one batch takes


@dataclass
class ErasureReport:
    """How much was removed, and the names of the versions trained on any of it."""

    chats: int = 0
    messages: int = 0
    votes: int = 0
    signals: int = 0
    affected_versions: list[str] = field(default_factory=list)

    def add(self, other: "ErasureReport") -> None:
        """Add another erasure's counts and versions."""
        self.chats += other.chats
        self.messages += other.messages
        self.votes += other.votes
        self.signals += other.signals
        new = [name for name in other.affected_versions if name not in self.affected_versions]
        self.affected_versions.extend(new)


def erase_user(session: Session, user_id: str, *, by: str) -> ErasureReport:
    """Erase a person: their account's name and secrets, chats, messages, votes and signals.

    An application's end users are erased with it: nobody else knows who they are. Raises NotFound, or
    Conflict for an admin and for a person who was erased already.
    """
    _erasable(session, user_id)
    report = _erase(session, _of_user(user_id))
    for table in (ApiToken, Identity):
        session.execute(sa.delete(table).where(col(table.user_id) == user_id))
    session.execute(
        sa.update(User)
        .where((col(User.id) == user_id) | (col(User.app_id) == user_id), col(User.erased_at).is_(None))
        .values(name=None, password_hash=None, app_key=None, disabled=True, erased_at=now())
        .execution_options(synchronize_session="fetch")
    )
    _record(session, by, "erase_user", user_id, report)
    return report


def preview_user(session: Session, user_id: str) -> ErasureReport:
    """What `erase_user` would remove and mark; raises as it does."""
    _erasable(session, user_id)
    scope = _of_user(user_id)
    report = _count(session, scope)
    votes, signals = _keys(session, scope)
    report.votes = len(votes)  # those of other people's chats and cleared ones included
    report.affected_versions = list(versions_trained_on(session, votes | signals))
    return report


def erase_before(
    session: Session, moment: datetime, *, by: str, deleted: bool = False, limit: int | None = None
) -> ErasureReport:
    """Retention: erase chats that nobody has written in since `moment`, at most `limit` of them.

    This includes chats that their owners deleted, whose text is only hidden until then. With `deleted`, only
    the chats that were deleted before `moment`. If there is nothing to erase, nothing is audited.
    """
    old = select(Chat.id).where(_forgettable(moment, deleted)).order_by(col(Chat.id)).limit(limit)
    # Two servers may do this at once: the second skips the rows that the first has locked.
    chats = list(session.exec(old.with_for_update(skip_locked=True)))
    if not chats:
        return ErasureReport()
    report = _erase(session, _Scope(chats))
    _record(session, by, "erase_before", moment.isoformat(), report)
    return report


def forget_before(
    database: Database,
    data_dir: Path,
    moment: datetime,
    *,
    by: str,
    deleted: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> ErasureReport:
    """`erase_before`, until nothing is left or `stop`, a few chats in each transaction.

    At the end the exports in the data directory are removed too. It is safe to run again, or on several
    servers at once.
    """
    total = ErasureReport()
    while not stop():
        with database.write() as session:
            report = erase_before(session, moment, by=by, deleted=deleted, limit=BATCH)
        if not report.chats:
            break
        total.add(report)
    if total.chats:
        remove_copies(database, data_dir)
    return total


def count_before(session: Session, moment: datetime) -> ErasureReport:
    """How much `erase_before` would remove, without affected versions."""
    return _count(session, _Scope(select(Chat.id).where(_forgettable(moment))))


def remove_copies(database: Database, data_dir: Path) -> list[Path]:
    """Remove what still holds erased data: exports in the data directory, the index of texts and the log of
    the database.

    Returns the paths of the removed exports.
    """
    forget_old_texts(database)
    database.forget_old_pages()
    return remove_exports(data_dir)


@dataclass(frozen=True)
class _Scope:
    """What to erase: these chats, and this person's votes and signals in any chat."""

    chats: SelectOfScalar[str] | Sequence[str]
    user_id: str | None = None

    def covers(self, table: type[Vote | VoteEvent | Signal | SetAsideVote]) -> sa.ColumnElement[bool]:
        in_chats = select(Message.id).where(col(Message.chat_id).in_(self.chats))
        return col(table.message_id).in_(in_chats) | (col(table.user_id) == self.user_id)


def _of_user(user_id: str) -> _Scope:
    """A person's data and that of their end users, who have votes only in their own chats."""
    people = select(User.id).where((col(User.id) == user_id) | (col(User.app_id) == user_id))
    return _Scope(select(Chat.id).where(col(Chat.owner_id).in_(people)), user_id)


def _erasable(session: Session, user_id: str) -> User:
    user = get_user(session, user_id)
    if user.erased_at is not None:
        raise Conflict(f"The user {user_id} was erased on {user.erased_at:%Y-%m-%d} already.")
    if user.role == "admin":
        raise Conflict(f"{user.name!r} is an admin; make them a user first (`thumbloop user role`).")
    return user


def _forgettable(moment: datetime, deleted: bool = False) -> sa.ColumnElement[bool]:
    """Chats without activity since `moment`, or deleted before it, that still have content."""
    messages = sa.exists().where(col(Message.chat_id) == Chat.id, col(Message.state) != ERASED_MESSAGE)
    has_content = (col(Chat.title) != "") | (col(Chat.system_prompt) != "") | messages
    if deleted:
        return (col(Chat.deleted_at) < moment) & has_content
    return (col(Chat.updated_at) < moment) & (col(Chat.deleted_at).is_(None) | has_content)


def _erase(session: Session, scope: _Scope) -> ErasureReport:
    lock_vote_log(session)
    votes, signals = _keys(session, scope)
    report = ErasureReport(votes=len(votes))
    blank: dict[str, object] = {"label": None, "tags": [], "comment": None, "correction": None}
    judged = select(Vote.id).where(scope.covers(Vote))
    session.execute(sa.delete(Review).where(col(Review.vote_id).in_(judged)))
    session.execute(sa.delete(Vote).where(scope.covers(Vote)))
    session.execute(sa.delete(SetAsideVote).where(scope.covers(SetAsideVote)))  # may quote the reply
    # An event of a vote that was taken back is empty: there is nothing to erase or to count.
    events = scope.covers(VoteEvent) & (col(VoteEvent.action) != ERASED) & col(VoteEvent.label).is_not(None)
    session.execute(sa.update(VoteEvent).where(events).values(blank | {"action": ERASED}))
    report.signals = count_changed(session, sa.delete(Signal).where(scope.covers(Signal)))
    messages = sa.update(Message).where(col(Message.chat_id).in_(scope.chats))
    blank = {"content": "", "reasoning": None, "token_ids": None, "sampling": None, "state": ERASED_MESSAGE}
    report.messages = count_changed(session, messages.values(blank))
    chats = sa.update(Chat).where(col(Chat.id).in_(scope.chats))
    blank = {"title": "", "system_prompt": "", "import_key": None, "deleted_at": now()}
    report.chats = count_changed(session, chats.values(blank))
    report.affected_versions = mark_affected(session, votes | signals)
    forget_changed(session)
    return report


def _count(session: Session, scope: _Scope) -> ErasureReport:
    def count(table: type[SQLModel], condition: sa.ColumnElement[bool]) -> int:
        return session.exec(select(func.count()).select_from(table).where(condition)).one()

    return ErasureReport(
        chats=count(Chat, col(Chat.id).in_(scope.chats)),
        messages=count(Message, col(Message.chat_id).in_(scope.chats)),
        votes=count(Vote, scope.covers(Vote)),
        signals=count(Signal, scope.covers(Signal)),
    )


def _keys(session: Session, scope: _Scope) -> tuple[set[Key], set[Key]]:
    """The (reply, person) keys of the votes and of the signals that are not erased."""
    events = scope.covers(VoteEvent) & (col(VoteEvent.action) != ERASED)
    votes = select(VoteEvent.message_id, VoteEvent.user_id).where(events)
    signals = select(Signal.message_id, Signal.user_id).where(scope.covers(Signal))
    return set(session.exec(votes)), set(session.exec(signals))


def _record(session: Session, by: str, action: str, target: str, report: ErasureReport) -> None:
    audit.record(session, by, action, target, **asdict(report))
    session.flush()
