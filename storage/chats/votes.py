"""Votes: one current vote per reply and person, and the append-only log of every change.

The reply and its owner are looked up in the database, never taken from a client.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.chats.chats import check_text
from storage.chats.sums import totals, usable
from storage.db.ids import is_id, new_id
from storage.db.rows import execute_core
from storage.db.tables import Chat, Message, Table, User, Vote, VoteEvent, now
from storage.errors import Conflict, InvalidInput, NotAllowed, NotFound, RevisionConflict

# The key of an advisory lock, any constant; see lock_vote_log.
EVENT_LOCK = 7_463_552


@dataclass(frozen=True)
class CurrentVote:
    """One person's current vote on one reply; the revision is 0 before the first vote."""

    message_id: str
    user_id: str
    label: bool | None = None
    tags: Sequence[str] = ()
    comment: str | None = None
    correction: str | None = None
    share: float | None = None  # of a vote on the whole chat; see `chat_votes.py`
    quarantined: bool = False
    revision: int = 0


@dataclass(frozen=True)
class Expected:
    """The precondition of a change: the vote's revision, or that there is no vote."""

    revision: int | None = None
    unvoted: bool = False


ANYTHING = Expected()
STORED = ("label", "tags", "comment", "correction", "share", "quarantined", "revision")


@dataclass(frozen=True)
class VoteCounts:
    """Current votes that training may use. The parts of a vote on a whole chat are one together."""

    up: int
    down: int


# Core statements, built once: votes are the one write that can come hundreds of times a second.
_users, _chats, _messages, _votes, _events = (
    Table.metadata.tables[name] for name in ("user_account", "chat", "message", "vote", "vote_event")
)
_FIND = (
    sa.select(
        *_messages.c["role", "state"],
        *_chats.c["owner_id", "deleted_at"],
        _users.c.app_id,
        _users.c.quarantined.label("set_aside"),
        *_votes.c["label", "tags", "comment", "correction", "share"],
        *_votes.c["quarantined", "excluded", "revision"],
    )
    .join_from(_messages, _chats)
    .join(_users)
    .outerjoin(_votes, (_votes.c.message_id == _messages.c.id) & (_votes.c.user_id == _chats.c.owner_id))
    .where(_messages.c.id == sa.bindparam("message"))
)
_INSERT = sa.insert(_votes)
_UPDATE = sa.update(_votes).where(
    _votes.c.message_id == sa.bindparam("message"), _votes.c.user_id == sa.bindparam("user")
)
_LOG = sa.insert(_events).inline()  # its id is not fetched


def cast_vote(
    session: Session,
    *,
    user_id: str,
    message_id: str,
    label: bool,
    tags: Sequence[str] | None = None,
    comment: str | None = None,
    correction: str | None = None,
    share: float | None = None,
    expected: Expected = ANYTHING,
    at: datetime | None = None,
) -> CurrentVote:
    """Cast or change a vote; repeating the same vote changes nothing.

    `user_id` is the person who got the reply, or the application that speaks for them; the vote belongs to
    that person. `at` is when it was cast, if not now. Raises InvalidInput, NotFound, NotAllowed (somebody
    else's chat), Conflict (the reply is streaming or failed) or RevisionConflict (the vote is not as
    expected).
    """
    if label is not True and label is not False:
        raise InvalidInput(f"The label must be true (up) or false (down), not {label!r}.", field="label")
    for text in (*(tags or ()), comment or "", correction or ""):
        check_text(text, "vote")
    lock_vote_log(session)
    found = _find(session, user_id, message_id)
    _check_votable(found, message_id)
    current = _current(found, found.owner_id, message_id)
    _check_expected(current, expected)
    wanted = replace(current, label=label, tags=list(tags or ()), comment=comment, correction=correction)
    wanted = replace(wanted, share=share, quarantined=bool(found.set_aside or found.excluded))
    if wanted == current:
        return current
    return _store(session, wanted, "cast" if current.label is None else "change", at)


def clear_vote(
    session: Session, *, user_id: str, message_id: str, expected: Expected = ANYTHING
) -> CurrentVote:
    """Take a vote back; does nothing if there is none.

    Raises NotFound, NotAllowed (somebody else's chat) or RevisionConflict (the vote is not as expected).
    """
    lock_vote_log(session)
    current = get_vote(session, user_id=user_id, message_id=message_id)
    _check_expected(current, expected)
    if current.label is None:
        return current
    cleared = replace(current, label=None, tags=[], comment=None, correction=None, share=None)
    return _store(session, cleared, "clear")


def get_vote(session: Session, *, user_id: str, message_id: str) -> CurrentVote:
    """The current vote on a reply to this person, or to an end user of this application.

    Raises NotFound or NotAllowed.
    """
    found = _find(session, user_id, message_id)
    return _current(found, found.owner_id, message_id)


def votes_of(session: Session, user_id: str, message_ids: Iterable[str]) -> dict[str, CurrentVote]:
    """A person's current votes on these messages by message id, without cleared ones."""
    query = select(Vote).where(
        Vote.user_id == user_id, col(Vote.message_id).in_(list(message_ids)), col(Vote.label).is_not(None)
    )
    return {vote.message_id: _current(vote, user_id, vote.message_id) for vote in session.exec(query)}


def count_votes(session: Session) -> VoteCounts:
    """Current votes that training may use: not quarantined, in chats with consent that are not deleted."""
    return total(count_by_source(session).values())


def total(counts: Collection[VoteCounts]) -> VoteCounts:
    return VoteCounts(up=sum(one.up for one in counts), down=sum(one.down for one in counts))


def count_by_source(session: Session) -> dict[str, VoteCounts]:
    """The votes that `count_votes` counts, by the source of their chats."""
    found = totals(session, "source").items()
    return {source: VoteCounts(round(one.up), round(one.down)) for source, one in found}


def count_voters(session: Session, *, sources: Collection[str] | None = None) -> int:
    """How many people cast the votes that `count_votes` counts, or only those from these sources."""
    any_of_theirs = select(Vote.id).join(Message).join(Chat).where(Vote.user_id == User.id, *usable())
    if sources is not None:
        any_of_theirs = any_of_theirs.where(col(Chat.source).in_(sources))
    # A scalar, so that PostgreSQL looks for one vote of each person instead of joining all votes.
    one = any_of_theirs.limit(1).scalar_subquery()
    return session.exec(select(func.count()).select_from(User).where(one.is_not(None))).one()


def latest_event_id(session: Session) -> int:
    """The newest event's id, which identifies the snapshot of all votes so far; 0 without votes."""
    return session.exec(select(func.max(VoteEvent.id))).one() or 0


def count_events_after(session: Session, event_id: int) -> int:
    """How many events are newer than a snapshot, quarantined ones not counted."""
    query = select(func.count()).where(col(VoteEvent.id) > event_id, col(VoteEvent.quarantined).is_(False))
    return session.exec(query).one()


def _find(session: Session, user_id: str, message_id: str) -> Any:
    """The message's role and state, its chat, its owner and their vote, if any, in one row."""
    found = execute_core(session, _FIND, {"message": message_id}).one_or_none() if is_id(message_id) else None
    if found is None:
        raise NotFound(f"There is no message {message_id}.")
    if found.deleted_at is not None:
        raise NotFound(f"The chat of the message {message_id} was deleted.")
    if user_id not in (found.owner_id, found.app_id):
        raise NotAllowed("Only the person to whom this reply was given can vote on it.", code="not_yours")
    return found


def _check_votable(found: Any, message_id: str) -> None:
    if found.role != "assistant":
        raise InvalidInput(
            f"The message {message_id} is from the {found.role}; only replies can be voted on.",
            code="not_a_reply",
            field="message_id",
        )
    if found.state == "streaming":
        raise Conflict("This reply is still being written; vote when it has ended.", code="still_streaming")
    if found.state == "given":
        raise InvalidInput(
            f"The message {message_id} came from a client as history; only our own replies can be voted on.",
            code="not_our_reply",
            field="message_id",
        )
    if found.state == "failed":
        raise Conflict("This reply failed before its end; regenerate it and vote then.", code="reply_failed")


def _current(row: Any, user_id: str, message_id: str) -> CurrentVote:
    if row.revision is None:
        return CurrentVote(message_id, user_id)
    values = {name: getattr(row, name) for name in STORED}
    return CurrentVote(message_id, user_id, **values)


def _check_expected(current: CurrentVote, expected: Expected) -> None:
    if expected.revision is not None and expected.revision != current.revision:
        raise RevisionConflict(
            f"The vote has the revision {current.revision}, not {expected.revision}: it was changed "
            f"meanwhile. GET it, then send this again without If-Match, or with If-Match: "
            f'"{current.revision}".'
        )
    if expected.unvoted and current.label is not None:
        raise RevisionConflict(
            f"There is a vote already, with the revision {current.revision}, where none (revision 0) was "
            f'expected. GET it, then send this again with If-Match: "{current.revision}" to change it.'
        )


def _store(session: Session, vote: CurrentVote, action: str, at: datetime | None = None) -> CurrentVote:
    """Store the vote as its next revision and append it to the log."""
    vote = replace(vote, revision=vote.revision + 1)
    moment = at or now()
    values = asdict(vote)
    if vote.revision == 1:
        row = {"id": new_id(), "created_at": moment, "updated_at": moment}
        execute_core(session, _INSERT, values | row)
    else:
        row = {"message": vote.message_id, "user": vote.user_id, "updated_at": moment}
        execute_core(session, _UPDATE, values | row)
    execute_core(session, _LOG, values | {"action": action, "created_at": moment})
    return vote


def lock_vote_log(session: Session) -> None:
    """Wait until no other transaction is adding vote events; call before adding some."""
    # A snapshot is "every event up to an id". PostgreSQL assigns ids before commit, so two transactions
    # could commit out of order and change a snapshot afterwards; this lock makes them take turns.
    # SQLite has one writer anyway.
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(EVENT_LOCK)))
