"""The OpenAI-compatible API: /v1/models and /v1/chat/completions.

A completion's id is the message id, so any client votes with PUT /api/v1/messages/{id}/vote. Each
request becomes a chat of its own, in which the earlier turns are what the client says they were.
"""

import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from app.api.chats import reply_threads
from app.api.errors import error_body
from app.api.replies import PING, ReplyResponse, ReplyThreads, deltas, finished
from app.api.shapes import Text
from app.auth import CurrentUser, Identity, ServicesHere
from app.live_reply import LiveReply
from app.services import Services
from app.serving.backend import Sampling
from storage import chats, model_versions
from storage.errors import InvalidInput, NotFound, ThumbloopError
from storage.tables import Message, ModelVersion

router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"])

ALIAS = "deployed"  # the model name that always means the deployed version


def _joined(content: Any) -> Any:
    """Text given in parts becomes one text; parts of another kind are for models that see or hear."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    known = [text for text in texts if isinstance(text, str)]
    if len(known) != len(content):
        raise ValueError("must be text or parts of type text; this model reads nothing else")
    return "".join(known)


class Turn(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_joined)]


class StreamOptions(BaseModel):
    include_usage: bool = False


class CompletionRequest(BaseModel):
    """Of OpenAI's other fields, those that would change the reply are refused and the rest ignored."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "model": "deployed",
                    "messages": [{"role": "user", "content": "What is the capital of France?"}],
                }
            ]
        },
    )

    model: str
    messages: list[Turn] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None


# What each may be without changing the reply.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "logprobs": (False,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


@router.get("/models")
def list_models(_: CurrentUser, services: ServicesHere) -> dict[str, Any]:
    """The names to call: `deployed` for whichever version is deployed, and that version's own."""
    version = _deployed(services)
    return {"object": "list", "data": [_model(name, version) for name in (ALIAS, version.name)]}


@router.get("/models/{model}")
def get_model(model: str, _: CurrentUser, services: ServicesHere) -> dict[str, Any]:
    """One of the models."""
    return _model(model, _chosen(services, model))


@router.post("/chat/completions", response_model=None)
async def complete(
    body: CompletionRequest, request: Request, identity: CurrentUser, services: ServicesHere
) -> Response:
    """A chat completion, whole or as a stream."""
    threads = reply_threads(request)
    _check_supported(body)
    sampling = _sampling(body, services)
    live = await threads.run(lambda: _begin(services, identity, body, sampling))
    headers = {"X-Thumbloop-Model-Version": live.model_version}
    if body.stream:
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        return ReplyResponse(live, _chunks(live, threads, with_usage), headers)
    message = await finished(live, threads, request)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": message.content, "refusal": None},
        "logprobs": None,
        "finish_reason": _finish_reason(message),
    }
    answer = _object("chat.completion", live, [choice]) | {"usage": _usage(message)}
    return JSONResponse(answer, headers=headers)


def _begin(services: Services, identity: Identity, body: CompletionRequest, sampling: Sampling) -> LiveReply:
    _chosen(services, body.model)
    system, history, question = _split(body.messages)
    with services.database.write() as session:
        chat = chats.create_chat(
            session,
            identity.user_id,
            system_prompt=system,
            source="openai",
            consent=services.settings.consent_default,
        )
        leaf = chats.add_history(session, chat.id, history)
    try:
        return services.chat_service.send(
            identity.user_id,
            chat.id,
            question,
            parent_id=leaf.id if leaf is not None else None,
            sampling=sampling,
        )
    except ThumbloopError as error:
        with services.database.write() as session:
            chats.delete_chat(session, chat.id)  # the client sends all of it again
        if error.code == "prompt_too_long":
            raise InvalidInput(error.message, code="context_length_exceeded", field="messages") from error
        if error.field == "content":
            error.field = "messages"
        raise


def _split(turns: Sequence[Turn]) -> tuple[str, list[tuple[str, str]], str]:
    """The system prompt, the earlier turns and the question; neighbours of one role become one turn."""
    system = [turn.content for turn in turns if turn.role in ("system", "developer")]
    merged: list[tuple[str, str]] = []
    for turn in turns:
        if turn.role in ("system", "developer"):
            continue
        if merged and merged[-1][0] == turn.role:
            merged[-1] = (turn.role, f"{merged[-1][1]}\n\n{turn.content}")
        else:
            merged.append((turn.role, turn.content))
    if not merged or merged[-1][0] != "user":
        raise InvalidInput("The last message must be the user's.", field="messages")
    return "\n\n".join(system), merged[:-1], merged[-1][1]


def _check_supported(body: CompletionRequest) -> None:
    if body.n not in (None, 1):
        raise InvalidInput(f"n is {body.n}; only 1 reply at a time is supported.", field="n")
    for name, neutral in NEUTRAL.items():
        value = (body.model_extra or {}).get(name)
        if value is not None and value not in neutral:
            raise InvalidInput(f"{name} is not supported; leave it out.", field=name, code="unsupported")


def _sampling(body: CompletionRequest, services: Services) -> Sampling:
    default = services.chat_service.default_sampling()
    most = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    if most is not None and most < 1:
        raise InvalidInput(f"max_tokens is {most}; it must be at least 1.", field="max_tokens")
    stop = [body.stop] if isinstance(body.stop, str) else body.stop
    return Sampling(
        temperature=default.temperature if body.temperature is None else body.temperature,
        top_p=default.top_p if body.top_p is None else body.top_p,
        max_new_tokens=default.max_new_tokens if most is None else most,
        seed=body.seed,
        stop=tuple(stop or ()),
    )


def _deployed(services: Services) -> ModelVersion:
    with services.database.read() as session:
        return model_versions.deployed_version(session)


def _chosen(services: Services, name: str) -> ModelVersion:
    version = _deployed(services)
    if name not in (ALIAS, version.name):
        raise NotFound(
            f"The model {name!r} does not exist; use {ALIAS!r}, or {version.name!r} which is deployed now.",
            code="model_not_found",
            field="model",
        )
    return version


def _model(name: str, version: ModelVersion) -> dict[str, Any]:
    created = int(version.created_at.timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": "thumbloop"}


def _object(kind: str, live: LiveReply, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": live.message_id,
        "object": kind,
        "created": int(time.time()),
        "model": live.model_version,
        "choices": choices,
    }


def _finish_reason(message: Message) -> str:
    return "length" if message.finish_reason == "length" else "stop"


def _usage(message: Message) -> dict[str, int]:
    timings = message.timings or {}
    prompt, completion = int(timings.get("prompt_tokens", 0)), int(timings.get("tokens", 0))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


async def _chunks(live: LiveReply, threads: ReplyThreads, with_usage: bool) -> AsyncIterator[str]:
    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _data(_object("chat.completion.chunk", live, [choice]))

    yield chunk({"role": "assistant", "content": ""})
    try:
        async for text in deltas(live, threads):
            yield chunk({"content": text}) if text is not None else PING
        message = live.message()
    except ThumbloopError as error:
        yield _data({"error": error_body(error) | {"type": "server_error", "param": None}})
        return
    yield chunk({}, _finish_reason(message))
    if with_usage:
        yield _data(_object("chat.completion.chunk", live, []) | {"usage": _usage(message)})
    yield "data: [DONE]\n\n"


def _data(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
