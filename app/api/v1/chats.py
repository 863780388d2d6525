"""Chats and messages. A reply is sent as server-sent events, or as one answer with `?stream=false`."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field, StrictBool
from sqlmodel import Session
from starlette.responses import JSONResponse, Response, StreamingResponse

from app.api.chat_export import Format, exported
from app.api.replies import (
    EVENT_SCHEMA,
    EventResponse,
    ReplyResponse,
    events,
    finished,
    run_in_reply_thread,
    stored_events,
)
from app.api.schemas import (
    ChatOut,
    ChatWithMessages,
    Cursor,
    Id,
    Limit,
    MessageOut,
    Page,
    check_length,
    messages_out,
    page_of,
)
from app.chat.live_reply import LiveReply
from app.chat.service import ChatService
from app.services import Services
from app.web.auth import CurrentUser, Identity, ServicesHere
from app.web.openapi_names import Body
from storage.chats import chats
from storage.db.tables import Chat, Message
from storage.errors import InvalidInput, NotAllowed
from storage.people.end_users import speaks_for
from storage.privacy import consent
from storage.registry.model_versions import get_version

router = APIRouter(tags=["chats"])

LONGEST_TITLE = 200
Stream = Annotated[bool, Query(description="false: one answer with the whole reply, no server-sent events.")]
Search = Annotated[str, Query(max_length=200, description="A text of the title or a message, in any case.")]
CONSENT_HELP = "Whether it may be used for training."
REPLY_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: `message`, then `reasoning` and `delta` with each piece of text, "
        "then `done` or `error`; with `?stream=false` the reply as JSON.",
        "content": {
            "text/event-stream": {
                "schema": EVENT_SCHEMA,
                "example": 'event: message\ndata: {"user_message_id": "…", "message_id": "…", '
                '"model_version": "v1"}\n\nevent: delta\ndata: {"text": "Hello"}\n\nevent: done\n'
                'data: {"message_id": "…", "model_version": "v1", "finish_reason": "stop", '
                '"content": "Hello"}\n\n',
            }
        },
        "model": MessageOut,
    }
}
FOLLOWED_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events, as of sending a message.",
        "content": {"text/event-stream": {"schema": EVENT_SCHEMA}},
    }
}
EXPORT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file; as JSON what `GET /api/v1/chats/{chat_id}` answers.",
        "content": {
            "text/markdown": {"schema": {"type": "string"}},
            "application/json": {"schema": {"$ref": "#/components/schemas/ChatWithMessages"}},
        },
    }
}


class ChatSampling(Body, json_schema_extra={"examples": [{"temperature": 0.2}]}):
    """How the replies of a chat are sampled; a field that is left out comes from the settings."""

    temperature: float | None = Field(None, description="0 to 2; 0 is greedy.")
    top_p: float | None = Field(None, description="Above 0, at most 1.")
    max_new_tokens: int | None = Field(None, description="At most the setting of this name.")

    def checked(self, service: ChatService) -> dict[str, Any] | None:
        return service.check_sampling(self.model_dump(exclude_none=True)) or None


class NewChat(Body, json_schema_extra={"examples": [{"title": "Capitals", "system_prompt": "Be brief."}]}):
    title: Annotated[str, Field(max_length=LONGEST_TITLE)] = ""
    system_prompt: str | None = Field(None, description="Left out: from the settings. Empty: none.")
    sampling: ChatSampling | None = None
    consent: StrictBool | None = Field(None, description=f"{CONSENT_HELP} Left out: from the settings.")


class ChatChanges(Body, json_schema_extra={"examples": [{"title": "Capitals of Europe"}]}):
    """A field that is left out stays unchanged."""

    title: Annotated[str, Field(max_length=LONGEST_TITLE)] | None = None
    system_prompt: str | None = Field(None, description="Only before the first message.")
    sampling: ChatSampling | None = Field(None, description="In place of the chat's; {}: the settings' own.")
    consent: StrictBool | None = Field(None, description=CONSENT_HELP)
    pinned: StrictBool | None = Field(None, description="Whether it is pinned to the top of your list.")


class SamplingChoice(Body, json_schema_extra={"examples": [{"temperature": 0.7, "seed": 1}]}):
    """A field that is left out comes from the chat, or else from the settings."""

    temperature: float | None = Field(None, description="0 to 2; 0 is greedy.")
    top_p: float | None = Field(None, description="Above 0, at most 1.")
    max_new_tokens: int | None = Field(None, description="At most the setting of this name.")
    seed: int | None = None
    stop: tuple[str, ...] | None = Field(None, description="Texts that end the reply and are left out of it.")

    def chosen(self) -> dict[str, Any]:
        return self.model_dump(include=set(SamplingChoice.model_fields), exclude_none=True)


class NewMessage(
    SamplingChoice, json_schema_extra={"examples": [{"content": "What is the capital of France?"}]}
):
    content: str
    parent_id: str | None = Field(
        None, description="The reply to answer; left out: the last one of the chat."
    )
    edits: str | None = Field(None, description="Your earlier message that this one replaces.")


class Cancelled(BaseModel):
    message_id: str
    cancelled: bool = Field(description="false: the reply had already ended.")


@router.post("/chats", status_code=201)
def create_chat(identity: CurrentUser, services: ServicesHere, body: NewChat | None = None) -> ChatOut:
    """Create a chat."""
    body = body or NewChat()
    prompt = services.settings.system_prompt if body.system_prompt is None else body.system_prompt
    check_length(prompt, services.settings, "system_prompt")
    with services.database.write() as session:
        chat = chats.create_chat(
            session,
            identity.user_id,
            system_prompt=prompt,
            sampling=body.sampling and body.sampling.checked(services.chat_service),
            title=body.title,
            source="api",
            consent=services.settings.consent_default if body.consent is None else body.consent,
        )
    return ChatOut.model_validate(chat)


@router.get("/chats")
def list_chats(
    identity: CurrentUser,
    services: ServicesHere,
    limit: Limit = 50,
    cursor: Cursor = None,
    search: Search = "",
    pinned: Annotated[bool | None, Query(description="Only those that you pinned, or the others.")] = None,
) -> Page[ChatOut]:
    """Your own chats, newest first."""
    with services.database.read() as session:
        find = partial(chats.list_chats, session, identity.user_id, limit=limit + 1, before=cursor)
        found = find(search=search, pinned=pinned)
    return page_of([ChatOut.model_validate(chat) for chat in found], limit)


@router.get("/chats/{chat_id}")
def get_chat(chat_id: Id, identity: CurrentUser, services: ServicesHere) -> ChatWithMessages:
    """A chat with the messages of its current path, each with your vote and its alternatives."""
    with services.database.read() as session:
        chat = chats.get_chat(session, chat_id, identity.user_id)
        messages = messages_out(session, chats.current_places(session, chat_id), identity.user_id)
    return ChatWithMessages(**chat.model_dump(include=set(ChatOut.model_fields)), messages=messages)


@router.get("/chats/{chat_id}/export", response_class=Response, responses=EXPORT_ANSWERS)
def export_chat(
    chat_id: Id, identity: CurrentUser, services: ServicesHere, format: Format = "markdown"
) -> Response:
    """A chat of your own as a file: the messages of its current path, as text or with all that is known."""
    chat = get_chat(chat_id, identity, services)
    return exported(chat, format, usual_prompt=services.settings.system_prompt)


@router.get("/chats/{chat_id}/messages")
def list_messages(
    chat_id: Id, identity: CurrentUser, services: ServicesHere, limit: Limit = 50, cursor: Cursor = None
) -> Page[MessageOut]:
    """The messages of a chat's current path, oldest first."""
    with services.database.read() as session:
        chats.get_chat(session, chat_id, identity.user_id)
        path = chats.current_places(session, chat_id)
        later = [place for place in path if cursor is None or place.message.id > cursor]
        return page_of(messages_out(session, later[: limit + 1], identity.user_id), limit)


@router.patch("/chats/{chat_id}")
def change_chat(chat_id: Id, body: ChatChanges, identity: CurrentUser, services: ServicesHere) -> ChatOut:
    """Change the title or the sampling, give or withdraw consent to training, pin the chat or unpin it.

    Without consent, the chat's votes are not trained on or exported. An application may also change its end
    users' chats.
    """
    with services.database.write() as session:
        chat = _changeable(session, chat_id, identity)
        if body.consent is not None:
            consent.set_consent(session, chat, body.consent, by=identity.user_id)
        if body.title is not None:
            chat = chats.rename_chat(session, chat_id, body.title)
        if body.system_prompt is not None:
            check_length(body.system_prompt, services.settings, "system_prompt")
            chat = chats.change_system_prompt(session, chat_id, body.system_prompt)
        if body.sampling is not None:
            chat.sampling = body.sampling.checked(services.chat_service)
        if body.pinned is not None:
            chat = chats.pin_chat(session, chat_id, body.pinned)
    return ChatOut.model_validate(chat)


@router.delete("/chats/{chat_id}", status_code=204)
def delete_chat(chat_id: Id, identity: CurrentUser, services: ServicesHere) -> None:
    """Delete a chat: hidden at once, its votes are not trained on again, and its text is erased days later.

    The days are THUMBLOOP_DELETED_CHAT_DAYS. Versions that learned from it count its votes in `erased_votes`;
    only a run from the base model forgets them. An application may also delete its end users' chats.
    """
    with services.database.write() as session:
        _changeable(session, chat_id, identity)
        consent.delete_chat(session, chat_id)


@router.post("/chats/{chat_id}/restore")
def restore_chat(chat_id: Id, identity: CurrentUser, services: ServicesHere) -> ChatOut:
    """Bring back a chat of your own that was deleted, while its text is there."""
    with services.database.write() as session:
        return ChatOut.model_validate(consent.restore_chat(session, chat_id, identity.user_id))


def _changeable(session: Session, chat_id: str, identity: Identity) -> Chat:
    """The chat, if it is this person's or one of their end users'; raises NotFound or NotAllowed."""
    chat = chats.get_chat(session, chat_id)
    if not speaks_for(session, identity.user_id, chat.owner_id):
        raise NotAllowed(f"The chat {chat_id} belongs to somebody else.", code="not_yours")
    return chat


@router.post("/chats/{chat_id}/messages", responses=REPLY_ANSWERS, response_model=None)
async def send_message(
    chat_id: Id,
    body: NewMessage,
    request: Request,
    identity: CurrentUser,
    services: ServicesHere,
    stream: Stream = True,
) -> Response:
    """Send a message and get the reply. Disconnecting stops the reply; the text so far is kept."""
    send = partial(
        services.chat_service.send,
        identity.user_id,
        chat_id,
        body.content,
        parent_id=body.parent_id,
        edits=body.edits,
        sampling=body.chosen(),
    )
    live = await run_in_reply_thread(request, send)
    return await _answer(live, request, stream, services, identity.user_id)


@router.post("/messages/{message_id}/regenerate", responses=REPLY_ANSWERS, response_model=None)
async def regenerate(
    message_id: Id,
    request: Request,
    identity: CurrentUser,
    services: ServicesHere,
    body: SamplingChoice | None = None,
    stream: Stream = True,
    compare: Annotated[bool, Query(description="To compare both: says nothing against this reply.")] = False,
) -> Response:
    """Get an alternative to this reply."""
    sampling = (body or SamplingChoice()).chosen()
    reply_again = services.chat_service.regenerate
    again = partial(reply_again, identity.user_id, message_id, sampling=sampling, compare=compare)
    live = await run_in_reply_thread(request, again)
    return await _answer(live, request, stream, services, identity.user_id)


@router.get("/messages/{message_id}/events", responses=FOLLOWED_ANSWERS, response_class=StreamingResponse)
def follow_reply(message_id: Id, identity: CurrentUser, services: ServicesHere) -> Response:
    """Follow a reply from its beginning, also one that another server writes or that has ended."""

    def read() -> tuple[Message, str]:
        with services.database.read() as session:
            message = chats.get_message(session, message_id)
            chats.get_chat(session, message.chat_id, identity.user_id)
            if message.role != "assistant":
                raise InvalidInput(f"The message {message_id} is no reply.", field="message_id")
            version = message.model_version_id
            return message, get_version(session, version).name if version else ""

    live = services.chat_service.live(read()[0])
    return EventResponse(events(live) if live is not None else stored_events(read))


@router.post("/messages/{message_id}/cancel")
def cancel_reply(message_id: Id, identity: CurrentUser, services: ServicesHere) -> Cancelled:
    """Stop a reply in progress; the text so far is kept."""
    cancelled = services.chat_service.cancel(message_id, identity.user_id)
    return Cancelled(message_id=message_id, cancelled=cancelled)


async def _answer(
    live: LiveReply, request: Request, stream: bool, services: Services, user_id: str
) -> Response:
    headers = {"X-Thumbloop-Model-Version": live.model_version}
    if stream:
        return ReplyResponse(live, events(live), headers)
    message = await finished(live, request)

    def shown() -> MessageOut:
        with services.database.read() as session:
            places = chats.current_places(session, message.chat_id, message.id)
            place = next(place for place in places if place.message.id == message.id)
            return messages_out(session, [place], user_id)[0]

    body = await run_in_reply_thread(request, shown)
    return JSONResponse(body.model_dump(mode="json"), headers=headers)
