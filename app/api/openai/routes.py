"""The OpenAI-compatible API: /v1/models, /v1/chat/completions and /v1/responses.

A completion's id is the message id, so a client votes with PUT /api/v1/messages/{id}/vote. Each request
becomes a separate chat; its earlier turns are stored as the client sent them.
"""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request
from sqlmodel import Session
from starlette.responses import JSONResponse, Response

from app.api.openai.completions import Answer, CompletionRequest, check_supported, event, sampling_of, split
from app.api.openai.fields import warning
from app.api.openai.responses import ResponseAnswer, ResponseRequest
from app.api.replies import PING, PING_SECONDS, ReplyResponse, finished, run_in_reply_thread
from app.chat.live_reply import LiveReply
from app.services import Services
from app.web.auth import CurrentSecret, CurrentUser, Secret, ServicesHere, identify
from app.web.errors import openai_error
from storage.chats import chats
from storage.db.tables import ModelVersion
from storage.errors import InvalidInput, NotFound, ThumbloopError
from storage.files.installation_key import load_secret
from storage.people.end_users import ensure_end_user, find_end_user
from storage.registry import model_versions

router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"])

OTHER_NAMES = {"messages": "input", "max_completion_tokens": "max_output_tokens"}  # of /v1/responses
ALIAS = "deployed"  # the model name that always means the deployed version
BASE = "base"  # the model name of the untrained base model


@router.get("/models")
def list_models(_: CurrentUser, services: ServicesHere) -> dict[str, Any]:
    """The model names: `deployed`, `base`, and each version that may reply."""
    with services.database.read() as session:
        models = {name: _chosen(session, name) for name in (ALIAS, BASE)}
        versions = model_versions.list_versions(session)
    models |= {version.name: version for version in versions if version.state == "ready"}  # newest first
    return {"object": "list", "data": [_model(name, version) for name, version in models.items()]}


@router.get("/models/{model}")
def get_model(model: str, _: CurrentUser, services: ServicesHere) -> dict[str, Any]:
    """One of the models."""
    with services.database.read() as session:
        return _model(model, _chosen(session, model))


@router.post("/chat/completions", response_model=None)
async def complete(
    body: CompletionRequest, request: Request, secret: CurrentSecret, services: ServicesHere
) -> Response:
    """Create a chat completion, whole or as a stream."""
    live = await run_in_reply_thread(request, lambda: _begin(services, secret, body))
    answer = Answer(live.message_id, live.model_version, with_usage=body.with_usage)
    if body.stream:
        return ReplyResponse(live, _chunks(live, answer), _headers(live, body))
    return JSONResponse(answer.whole(await finished(live, request)), headers=_headers(live, body))


@router.post("/responses", response_model=None)
async def respond(
    body: ResponseRequest, request: Request, secret: CurrentSecret, services: ServicesHere
) -> Response:
    """Create a response, whole or as a stream: text in, text out."""
    asked = body.as_completion()
    try:
        live = await run_in_reply_thread(request, lambda: _begin(services, secret, asked))
    except ThumbloopError as error:
        if error.field in OTHER_NAMES:
            error.message = error.message.replace(error.field, OTHER_NAMES[error.field])
            error.field = OTHER_NAMES[error.field]
        raise
    answer = ResponseAnswer(live.message_id, live.model_version, body)
    if body.stream:
        return ReplyResponse(live, _response_events(live, answer), _headers(live, asked))
    return JSONResponse(answer.whole(await finished(live, request)), headers=_headers(live, asked))


def _headers(live: LiveReply, asked: CompletionRequest) -> dict[str, str]:
    return {
        "X-Thumbloop-Model-Version": live.model_version,
        "X-Thumbloop-Chat": live.chat_id,
        **warning(asked.without_effect),
    }


def _begin(services: Services, secret: Secret, asked: CompletionRequest) -> LiveReply:
    # A token belongs to a program, which has users of its own; a browser session to one person.
    end_user = asked.end_user if secret.kind == "api" else None
    with services.database.read() as session:
        identity = identify(session, secret)
        person_id = identity.user_id
        check_supported(asked, services.settings.template_args)
        sampling = sampling_of(asked, services.chat_service.default_sampling())
        admin = identity.role == "admin"
        version = _chosen(session, asked.model, admin=admin) if asked.model != ALIAS else None
        system, turns, question = split(asked.messages)
        if end_user is not None:
            person_id = _end_user_id(services, session, person_id, end_user)
        chat = chats.draft_chat(
            session,
            person_id,
            system_prompt=system,
            source="openai",
            consent=asked.consent(services.settings.consent_default),
            split_by=person_id if end_user is not None else "",
        )
    if version is not None:
        chat.canary_id = None  # the caller chose the version
    try:
        return services.chat_service.begin(
            chat,
            turns,
            question,
            sampling=sampling,
            version_id=version.id if version is not None else None,
            shorten=False,  # as with OpenAI, the client manages the conversation's length
        )
    except ThumbloopError as error:
        if error.code == "prompt_too_long":
            raise InvalidInput(error.message, code="context_length_exceeded", field="messages") from error
        if error.field == "content":
            error.field = "messages"
        raise


def _end_user_id(services: Services, session: Session, app_id: str, name: str) -> str:
    """The id of the application's end user; creates them on first use."""
    salt = load_secret(services.settings.data_dir)
    person = find_end_user(session, app_id, name, salt=salt)
    if person is None:
        with services.database.write() as writing:
            person = ensure_end_user(writing, app_id, name, salt=salt)
    return person.id


def _chosen(session: Session, name: str, *, admin: bool = False) -> ModelVersion:
    """The version with this model name; an admin may try a candidate, too. Raises NotFound."""
    if name == ALIAS:
        return model_versions.deployed_version(session)
    version = None
    with suppress(NotFound):
        version = model_versions.get_version(session, "v1" if name == BASE else name)
    replies = ("ready", "candidate") if admin else ("ready",)
    if version is None or (name != BASE and (version.state not in replies or version.name != name)):
        deployed = model_versions.deployed_version(session)
        raise NotFound(
            f"The model {name!r} does not exist; use {ALIAS!r}, which is {deployed.name} now, or "
            f"another of GET /v1/models.",
            code="model_not_found",
            field="model",
        )
    return version


def _model(name: str, version: ModelVersion) -> dict[str, Any]:
    created = int(version.created_at.timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": "thumbloop"}


async def _chunks(live: LiveReply, answer: Answer) -> AsyncIterator[str]:
    yield answer.beginning()
    try:
        async for text in live.follow(PING_SECONDS):
            yield answer.delta(text) if text is not None else PING
        message = live.message()
    except ThumbloopError as error:
        yield event({"error": openai_error(error)})
        return
    yield answer.ending(message)


async def _response_events(live: LiveReply, answer: ResponseAnswer) -> AsyncIterator[str]:
    for event_text in answer.beginning():
        yield event_text
    try:
        async for text in live.follow(PING_SECONDS):
            yield answer.delta(text) if text is not None else PING
        message = live.message()
    except ThumbloopError as error:
        yield answer.failure(openai_error(error))
        return
    for event_text in answer.ending(message):
        yield event_text
