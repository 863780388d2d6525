"""Votes: one current vote per reply and person, and the append-only log of every change.

The reply's text, its history and its owner are looked up here; nothing of them is taken from a client.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.chats import check_text, get_chat, get_message
from storage.errors import Conflict, InvalidInput, NotAllowed
from storage.tables import Chat, Message, Vote, VoteEvent, now

# Any constant will do; see take_turn.
EVENT_LOCK = 7_463_552


@dataclass(frozen=True)
class VoteCounts:
    """Current votes that training may use."""

    up: int
    down: int


def cast_vote(
    session: Session,
    *,
    user_id: str,
    message_id: str,
    label: bool,
    tags: Sequence[str] | None = None,
    comment: str | None = None,
    correction: str | None = None,
) -> Vote:
    """Cast or change a vote; the same vote again changes nothing.

    Raises InvalidInput, NotFound, NotAllowed (somebody else's chat) or Conflict (still streaming).
    """
    if label is not True and label is not False:
        raise InvalidInput(f"The label must be true (up) or false (down), not {label!r}.", field="label")
    for text in (*(tags or ()), comment or "", correction or ""):
        check_text(text, "vote")
    take_turn(session)
    _check_votable(session, user_id, message_id)
    state: dict[str, Any] = {
        "label": label,
        "tags": list(tags or ()),
        "comment": comment,
        "correction": correction,
    }
    vote = _find(session, user_id, message_id)
    if vote is None:
        vote = Vote(message_id=message_id, user_id=user_id, **state)
        action = "cast"
    elif all(getattr(vote, name) == value for name, value in state.items()):
        return vote
    else:
        action = "cast" if vote.label is None else "change"
        vote.sqlmodel_update(state)
        vote.revision += 1
        vote.updated_at = now()
    _append(session, vote, action)
    return vote


def clear_vote(session: Session, *, user_id: str, message_id: str) -> Vote | None:
    """Take a vote back; None, or the vote as it is, where there is nothing to take back."""
    take_turn(session)
    _check_owner(session, user_id, get_message(session, message_id))
    vote = _find(session, user_id, message_id)
    if vote is None or vote.label is None:
        return vote
    vote.sqlmodel_update({"label": None, "tags": [], "comment": None, "correction": None})
    vote.revision += 1
    vote.updated_at = now()
    _append(session, vote, "clear")
    return vote


def votes_of(session: Session, user_id: str, message_ids: Iterable[str]) -> dict[str, Vote]:
    """A person's current votes by message id; cleared ones are left out."""
    query = select(Vote).where(
        Vote.user_id == user_id, col(Vote.message_id).in_(list(message_ids)), col(Vote.label).is_not(None)
    )
    return {vote.message_id: vote for vote in session.exec(query)}


def count_votes(session: Session) -> VoteCounts:
    """Current votes that training may use: not in deleted chats, and with consent."""
    rows = session.exec(
        select(Vote.label, func.count())
        .join(Message, col(Message.id) == Vote.message_id)
        .join(Chat, col(Chat.id) == Message.chat_id)
        .where(col(Vote.label).is_not(None), col(Chat.deleted_at).is_(None), col(Chat.consent).is_(True))
        .group_by(col(Vote.label))
    )
    counts: dict[bool | None, int] = dict(rows.all())
    return VoteCounts(up=counts.get(True, 0), down=counts.get(False, 0))


def count_voters(session: Session) -> int:
    """How many people cast the votes that `count_votes` counts."""
    query = (
        select(func.count(sa.distinct(col(Vote.user_id))))
        .join(Message, col(Message.id) == Vote.message_id)
        .join(Chat, col(Chat.id) == Message.chat_id)
        .where(col(Vote.label).is_not(None), col(Chat.deleted_at).is_(None), col(Chat.consent).is_(True))
    )
    return session.exec(query).one()


def latest_event_id(session: Session) -> int:
    """The newest event's id, which names the snapshot of all votes so far; 0 before the first vote."""
    return session.exec(select(func.max(VoteEvent.id))).one() or 0


def count_events_after(session: Session, event_id: int) -> int:
    return session.exec(select(func.count()).where(col(VoteEvent.id) > event_id)).one()


def _check_votable(session: Session, user_id: str, message_id: str) -> None:
    message = get_message(session, message_id)
    _check_owner(session, user_id, message)
    if message.role != "assistant":
        raise InvalidInput(
            f"The message {message_id} is from the {message.role}; only replies can be voted on.",
            code="not_a_reply",
            field="message_id",
        )
    if message.state == "streaming":
        raise Conflict("This reply is still being written; vote when it has ended.", code="still_streaming")
    if message.state == "given":
        raise InvalidInput(
            f"The message {message_id} came from a client as history; only our own replies can be voted on.",
            code="not_our_reply",
            field="message_id",
        )
    if message.state == "failed":
        raise Conflict("This reply failed before its end; regenerate it and vote then.", code="reply_failed")


def _check_owner(session: Session, user_id: str, message: Message) -> None:
    if get_chat(session, message.chat_id).owner_id != user_id:
        raise NotAllowed("Only the person to whom this reply was given can vote on it.", code="not_yours")


def _find(session: Session, user_id: str, message_id: str) -> Vote | None:
    return session.exec(select(Vote).where(Vote.message_id == message_id, Vote.user_id == user_id)).first()


def take_turn(session: Session) -> None:
    """Wait until no other transaction is adding vote events; call before adding some."""
    # A snapshot is "every event up to an id". PostgreSQL gives ids before commit, so two transactions
    # could commit out of order and change a snapshot afterwards; this lock makes them take turns.
    # SQLite has one writer anyway.
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(EVENT_LOCK)))


def _append(session: Session, vote: Vote, action: str) -> None:
    session.add(vote)
    session.add(
        VoteEvent(
            message_id=vote.message_id,
            user_id=vote.user_id,
            action=action,
            label=vote.label,
            tags=vote.tags,
            comment=vote.comment,
            correction=vote.correction,
            revision=vote.revision,
        )
    )
    session.flush()
