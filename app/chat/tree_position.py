"""Finds the position of a new message in a chat's message tree, and notes the signal of what it replaces."""

from sqlmodel import Session

from storage.chats import chats, signals
from storage.db.tables import Message
from storage.errors import InvalidInput
from storage.settings import SignalKind


def find_place(
    session: Session, chat_id: str, parent_id: str | None, edits: str | None
) -> tuple[list[Message], Message | None]:
    """The path above a new message, and the message that it replaces. Raises InvalidInput, NotFound."""
    if parent_id is not None and edits is not None:
        raise InvalidInput("Give parent_id or edits, not both.", field="edits")
    named, field = (edits, "edits") if edits is not None else (parent_id, "parent_id")
    if named is None:
        return chats.current_path(session, chat_id), None
    message = chats.get_message(session, named)
    if message.chat_id != chat_id:
        raise InvalidInput(f"The message {named} is not of chat {chat_id}.", field=field)
    path = chats.path_to(session, named)
    if edits is None:
        return path, chats.newest_child(session, named)
    if message.role != "user":
        raise InvalidInput(f"The message {named} is a reply; only your own can be edited.", field=field)
    return path[:-1], message


def note_signal(session: Session, user_id: str, reply: Message | None, kind: SignalKind) -> None:
    # Must be the transaction's first write: all that change the vote log wait for its lock before writing.
    if reply is not None and signals.is_over(reply):
        signals.record_signal(session, user_id=user_id, message_id=reply.id, kind=kind)


def leaf_id_of(session: Session, chat_id: str) -> str | None:
    path = chats.current_path(session, chat_id)
    return path[-1].id if path else None
