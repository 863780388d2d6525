"""Consent to training, per chat: the owner can give or withdraw it at any time, or delete the chat.

Without consent, training leaves the chat's votes out, whatever the snapshot, and so do exports by default.
Versions already trained on them are marked, as after an erasure, until consent is given again. A deleted chat
is treated alike, until it is restored; its text is erased days later (`storage.privacy.erasure`).
"""

from sqlmodel import Session, select

from storage.chats.chats import get_chat
from storage.chats.votes import lock_vote_log
from storage.db import audit
from storage.db.rows import get_row
from storage.db.tables import Chat, Message, Signal, VoteEvent, now
from storage.errors import NotFound
from storage.registry.lineage import Key, mark_affected


def set_consent(session: Session, chat: Chat, consent: bool, *, by: str) -> list[str]:
    """Set the chat's consent; returns the names of the versions trained on it that have lost votes."""
    if chat.consent == consent:
        return []
    lock_vote_log(session)
    chat.consent = consent
    affected = _mark_versions(session, chat)
    action = "give_consent" if consent else "withdraw_consent"
    audit.record(session, by, action, chat.id, affected_versions=affected)
    session.flush()
    return affected


def delete_chat(session: Session, chat_id: str) -> list[str]:
    """Hide the chat from its owner and its votes from training; returns the versions that lost votes.

    Raises NotFound.
    """
    lock_vote_log(session)
    chat = get_chat(session, chat_id)
    chat.deleted_at = now()
    return _mark_versions(session, chat)


def restore_chat(session: Session, chat_id: str, owner_id: str) -> Chat:
    """Undo `delete_chat`; raises NotFound once the text is erased, and NotAllowed."""
    lock_vote_log(session)
    chat = get_row(session, Chat, chat_id, "chat")
    erased = select(Message.id).where(Message.chat_id == chat_id, Message.state == "erased")
    if session.exec(erased.limit(1)).first() is not None:
        raise NotFound(f"The chat {chat_id} was erased.")
    chat.deleted_at = None
    _mark_versions(session, chat)
    return get_chat(session, chat_id, owner_id)


def _mark_versions(session: Session, chat: Chat) -> list[str]:
    """Recount the lost votes of the versions that learned from the chat; returns those with any."""
    session.flush()
    used: set[Key] = set()
    for table in (VoteEvent, Signal):
        votes = select(table.message_id, table.user_id).select_from(table).join(Message)
        used.update(session.exec(votes.where(Message.chat_id == chat.id)))
    return mark_affected(session, used)
