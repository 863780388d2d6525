"""A thumb for a whole chat, spread over its replies.

Of the n replies of the current branch that can be voted on and have no vote of their own, each gets the thumb
with the share 1/n, so the chat weighs in training as much as one reply does. Each is a vote as any other: it
is in snapshots, exports and lineage, and a later vote on the reply itself takes its place.
"""

from dataclasses import dataclass

from sqlmodel import Session, col, select

from storage.chats.chats import current_path, get_chat
from storage.chats.votes import CurrentVote, cast_vote, clear_vote, lock_vote_log, votes_of
from storage.db.tables import FINISHED, Message
from storage.errors import Conflict


@dataclass(frozen=True)
class ChatVote:
    """The thumb of a whole chat, and the replies that share it; no label without one."""

    chat_id: str
    label: bool | None
    message_ids: list[str]
    share: float | None


def chat_vote(session: Session, *, user_id: str, chat_id: str) -> ChatVote:
    """The person's vote on the whole chat; raises NotFound or NotAllowed."""
    shared = [vote for vote in _votes(session, user_id, chat_id).values() if vote.share is not None]
    label, share = (shared[-1].label, shared[-1].share) if shared else (None, None)
    return ChatVote(chat_id, label, [vote.message_id for vote in shared], share)


def cast_chat_vote(session: Session, *, user_id: str, chat_id: str, label: bool) -> ChatVote:
    """Vote on a whole chat, or change that vote; it is spread anew over what stands there now.

    Raises NotFound, NotAllowed, or Conflict if no reply is left to vote on.
    """
    lock_vote_log(session)
    votes = _votes(session, user_id, chat_id)
    own = {message_id for message_id, vote in votes.items() if vote.share is None}
    replies = [
        message.id
        for message in current_path(session, chat_id)
        if message.role == "assistant" and message.state in FINISHED and message.id not in own
    ]
    if not replies:
        raise Conflict("Every reply of this chat has a vote of its own, or none can be voted on.")
    for message_id in votes.keys() - own - set(replies):  # of another branch
        clear_vote(session, user_id=user_id, message_id=message_id)
    share = 1 / len(replies)
    for message_id in replies:
        cast_vote(session, user_id=user_id, message_id=message_id, label=label, share=share)
    return ChatVote(chat_id, label, replies, share)


def clear_chat_vote(session: Session, *, user_id: str, chat_id: str) -> ChatVote:
    """Take the vote on the whole chat back; votes on single replies stay."""
    lock_vote_log(session)
    for message_id, vote in _votes(session, user_id, chat_id).items():
        if vote.share is not None:
            clear_vote(session, user_id=user_id, message_id=message_id)
    return ChatVote(chat_id, None, [], None)


def _votes(session: Session, user_id: str, chat_id: str) -> dict[str, CurrentVote]:
    get_chat(session, chat_id, user_id)
    ids = session.exec(select(Message.id).where(Message.chat_id == chat_id).order_by(col(Message.id))).all()
    found = votes_of(session, user_id, ids)
    return {message_id: found[message_id] for message_id in ids if message_id in found}
