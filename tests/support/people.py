"""Rows that many storage tests begin with."""

from sqlmodel import Session

from storage.chats import chats
from storage.db.tables import Chat, Message, User
from storage.people import users
from storage.registry import model_versions


def add_reply(
    session: Session, chat: Chat, question: str = "Why?", answer: str = "Because.", state: str = "complete"
) -> Message:
    """A question and its answer by v1, appended to the chat."""
    version = model_versions.ensure_base(session, "tiny")
    asked = chats.add_user_message(session, chat.id, question)
    reply = chats.begin_reply(session, chat.id, asked.id, model_version_id=version.id, sampling={})
    if state != "streaming":
        chats.finish_reply(
            session, reply.id, content=answer, state=state, finish_reason="stop", token_ids=[5, 2], timings={}
        )
    return session.get_one(Message, reply.id)


def add_person_with_reply(session: Session, system_prompt: str = "") -> tuple[User, Chat, Message]:
    person = users.create_anonymous(session)
    chat = chats.create_chat(session, person.id, system_prompt=system_prompt)
    return person, chat, add_reply(session, chat)
