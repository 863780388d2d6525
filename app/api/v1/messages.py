"""The messages of a chat, as the person sees them who wrote them."""

from collections.abc import Mapping, Sequence

from fastapi import APIRouter
from sqlmodel import Session

from app.api.paging import Cursor, Limit, Page, cut
from app.api.schemas import Id, MessageOut, message_out
from app.web.auth import CurrentUser, ServicesHere
from storage.chats import chats, votes
from storage.db.tables import Message
from storage.registry import model_versions

router = APIRouter(tags=["chats"])


@router.get("/chats/{chat_id}/messages")
def list_messages(
    chat_id: Id, identity: CurrentUser, services: ServicesHere, limit: Limit = 50, cursor: Cursor = None
) -> Page[MessageOut]:
    """The messages of a chat's current path, oldest first."""
    with services.database.read() as session:
        chats.get_chat(session, chat_id, identity.user_id)
        path = chats.current_path(session, chat_id)
        later = [message for message in path if cursor is None or message.id > cursor]
        page, following = cut(later, limit, lambda message: message.id)
        return Page(items=messages_out(session, page, identity.user_id), next=following)


def messages_out(session: Session, messages: Sequence[Message], user_id: str) -> list[MessageOut]:
    """With that person's votes and the alternatives to each."""
    names = version_names(session)
    mine = votes.votes_of(session, user_id, [message.id for message in messages])
    return [
        message_out(
            message,
            names,
            mine.get(message.id),
            [sibling.id for sibling in chats.siblings(session, message.id)],
        )
        for message in messages
    ]


def version_names(session: Session) -> Mapping[str, str]:
    return {version.id: version.name for version in model_versions.list_versions(session)}
