"""Implicit signals: what a person did with a reply without voting on it. They never count as votes.

Copying a reply suggests that it was good; regenerating it or editing its question suggests that it was not.
Signals become examples only if a training run asks for their kinds. A signal is stored with the newest vote
event at the time and belongs only to snapshots of later events, so it never changes an existing snapshot.
"""

from typing import get_args

from sqlmodel import Session, col, func, select

from storage.chats.chats import get_chat, get_message
from storage.chats.votes import latest_event_id, lock_vote_log
from storage.db.tables import FINISHED, Chat, Message, Signal
from storage.errors import Conflict, InvalidInput, NotAllowed
from storage.people.end_users import speaks_for
from storage.settings.training import SignalKind

SIGNAL = "signal"
KINDS: tuple[SignalKind, ...] = get_args(SignalKind)
DESIRABLE = "copied"


def record_signal(session: Session, *, user_id: str, message_id: str, kind: SignalKind) -> Signal:
    """Store a signal of the person who got the reply; repeating it changes nothing.

    Raises NotFound, NotAllowed (somebody else's chat), InvalidInput (unknown kind, or not a reply of ours) or
    Conflict (the reply is unfinished or failed).
    """
    if kind not in KINDS:
        raise InvalidInput(f"The kind {kind!r} is not one of {', '.join(KINDS)}.", field="kind")
    lock_vote_log(session)  # no vote event may come between reading the newest one and storing the signal
    message = get_message(session, message_id)
    person = get_chat(session, message.chat_id).owner_id
    if not speaks_for(session, user_id, person):
        raise NotAllowed(
            "Only the person to whom this reply was given can say what they did with it.", code="not_yours"
        )
    if message.role != "assistant" or message.state == "given":
        raise InvalidInput(
            f"The message {message_id} is not a reply of ours.", code="not_our_reply", field="message_id"
        )
    if not is_over(message):
        raise Conflict("This reply has not ended, or it failed.", code="reply_not_finished")
    known = session.exec(
        select(Signal).where(Signal.message_id == message_id, Signal.user_id == person, Signal.kind == kind)
    ).first()
    if known is not None:
        return known
    signal = Signal(message_id=message_id, user_id=person, kind=kind, after_event_id=latest_event_id(session))
    session.add(signal)
    session.flush()
    return signal


def is_over(message: Message) -> bool:
    """Whether it is a finished reply of ours, and so can have signals."""
    return message.role == "assistant" and message.state in FINISHED


def count_signals(session: Session) -> dict[SignalKind, int]:
    """The number of signals of each kind, in chats that are not deleted."""
    query = select(Signal.kind, func.count()).select_from(Signal).join(Message).join(Chat)
    rows = session.exec(query.where(col(Chat.deleted_at).is_(None)).group_by(col(Signal.kind)))
    counts = dict(rows.all())
    return {kind: counts.get(kind, 0) for kind in KINDS}
