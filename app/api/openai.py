"""The OpenAI-compatible API: /v1/models and /v1/chat/completions.

A completion's id is the message id, so any client votes with PUT /api/v1/messages/{id}/vote. Each
request becomes a chat of its own, in which the earlier turns are what the client says they were.
"""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from sqlmodel import Session
from starlette.responses import JSONResponse, Response

from app.api.chats import reply_threads
from app.api.completions import Answer, CompletionRequest, check_supported, event, sampling_of, split
from app.api.errors import openai_error
from app.api.replies import PING, ReplyResponse, ReplyThreads, deltas, finished
from app.auth import CurrentSecret, CurrentUser, Identity, ServicesHere
from app.live_reply import LiveReply
from app.services import Services
from app.serving.backend import Sampling
from storage import chats, model_versions
from storage.end_users import ensure_end_user
from storage.errors import InvalidInput, NotFound, ThumbloopError
from storage.secret import load_secret
from storage.tables import ModelVersion

router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"])

ALIAS = "deployed"  # the model name that always means the deployed version
BASE = "base"  # and the one for the model that nothing was trained into


@router.get("/models")
def list_models(_: CurrentUser, services: ServicesHere) -> dict[str, Any]:
    """The names to call: `deployed`, `base`, and that of each version that may reply."""
    with services.database.read() as session:
        models = _models(session)
    return {"object": "list", "data": [_model(name, version) for name, version in models.items()]}


@router.get("/models/{model}")
def get_model(model: str, _: CurrentUser, services: ServicesHere) -> dict[str, Any]:
    """One of the models."""
    return _model(model, _chosen(services, model))


@router.post("/chat/completions", response_model=None)
async def complete(
    body: CompletionRequest,
    request: Request,
    identity: CurrentUser,
    secret: CurrentSecret,
    services: ServicesHere,
) -> Response:
    """A chat completion, whole or as a stream."""
    threads = reply_threads(request)
    check_supported(body)
    sampling = sampling_of(body, services.chat_service.default_sampling())
    # Tokens are for programs, which have users of their own. A browser's session is one person's.
    end_user = body.end_user if secret.kind == "api" else None
    live = await threads.run(lambda: _begin(services, identity, end_user, body, sampling))
    headers = {"X-Thumbloop-Model-Version": live.model_version}
    answer = Answer(live.message_id, live.model_version, with_usage=body.with_usage)
    if body.stream:
        return ReplyResponse(live, _chunks(live, threads, answer), headers)
    return JSONResponse(answer.whole(await finished(live, threads, request)), headers=headers)


def _begin(
    services: Services,
    identity: Identity,
    end_user: str | None,
    body: CompletionRequest,
    sampling: Sampling,
) -> LiveReply:
    version = _chosen(services, body.model)
    system, history, question = split(body.messages)
    with services.database.write() as session:
        person_id = identity.user_id
        if end_user is not None:
            salt = load_secret(services.settings.data_dir)
            person_id = ensure_end_user(session, identity.user_id, end_user, salt=salt).id
        services.chat_service.limits.check(person_id)  # before anything of it is stored
        chat = chats.create_chat(
            session,
            person_id,
            system_prompt=system,
            source="openai",
            consent=services.settings.consent_default,
            split_by=person_id if end_user is not None else "",
        )
        if body.model != ALIAS:
            chat.canary_id = None  # the caller chose the version
        leaf = chats.add_history(session, chat.id, history)
    try:
        return services.chat_service.send(
            person_id,
            chat.id,
            question,
            parent_id=leaf.id if leaf is not None else None,
            sampling=sampling,
            version_id=None if body.model == ALIAS else version.id,
            shorten=False,  # the client keeps the conversation; so does it with the service it knows
        )
    except ThumbloopError as error:
        with services.database.write() as session:
            chats.delete_chat(session, chat.id)  # the client sends all of it again
        if error.code == "prompt_too_long":
            raise InvalidInput(error.message, code="context_length_exceeded", field="messages") from error
        if error.field == "content":
            error.field = "messages"
        raise


def _models(session: Session) -> dict[str, ModelVersion]:
    """What may be called, by name: the aliases, then the versions, newest first."""
    aliases = {
        ALIAS: model_versions.deployed_version(session),
        BASE: model_versions.get_version(session, "v1"),
    }
    versions = model_versions.list_versions(session)
    return aliases | {version.name: version for version in versions if version.state == "ready"}


def _chosen(services: Services, name: str) -> ModelVersion:
    with services.database.read() as session:
        models = _models(session)
    if name not in models:
        raise NotFound(
            f"The model {name!r} does not exist; use {ALIAS!r}, which is {models[ALIAS].name} now, or "
            f"another of GET /v1/models.",
            code="model_not_found",
            field="model",
        )
    return models[name]


def _model(name: str, version: ModelVersion) -> dict[str, Any]:
    created = int(version.created_at.timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": "thumbloop"}


async def _chunks(live: LiveReply, threads: ReplyThreads, answer: Answer) -> AsyncIterator[str]:
    yield answer.beginning()
    try:
        async for text in deltas(live, threads):
            yield answer.delta(text) if text is not None else PING
        message = live.message()
    except ThumbloopError as error:
        yield event({"error": openai_error(error)})
        return
    yield answer.ending(message)
