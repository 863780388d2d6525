"""Chat completions in OpenAI's format: parses requests, refuses unsupported fields, and formats answers."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from app.api.openai.fields import refuse_unsupported, without_effect
from app.serving.reply import Sampling
from app.web.openapi_names import NullsLeftOut, StorableBody, without_nulls
from storage.chats.conversation import ROLES, THOUGHT_KEYS, TOOLS, Turn, joined_parts, shaped, thought
from storage.chats.reasoning import Reasoning
from storage.db.tables import Message
from storage.errors import InvalidInput

# Keys of `metadata`: the end user, and whether the chat may be used for training.
USER_ID = "user_id"
CONSENT = "consent"


def _known_role(given: Any) -> Any:
    if given in TOOLS:
        raise ValueError("tool messages are not supported; send the texts of user and assistant alone")
    return given


class ChatMessage(NullsLeftOut, extra="allow"):
    role: Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(_known_role)]
    content: Annotated[str, BeforeValidator(joined_parts)]

    @model_validator(mode="before")
    @classmethod
    def _text_alone(cls, given: Any) -> Any:
        """Refuse the parts of an assistant's message that are not text, and read a refusal as its text."""
        if not isinstance(given, dict):
            return given
        for name in ("tool_calls", "function_call"):
            if given.get(name):
                raise ValueError(f"tool messages ({name}) are not supported; send the texts alone")
        if given.get("content") is not None:
            return given
        if isinstance(given.get("refusal"), str):
            return given | {"content": given["refusal"]}
        return given | {"content": ""} if thought(given) else given  # cut off before its reply


class StreamOptions(NullsLeftOut):
    include_usage: bool = False


EndUser = Annotated[str, Field(max_length=512)]


READ_IN_MESSAGES = {
    *THOUGHT_KEYS,
    "tool_calls",
    "function_call",
    "refusal",
    "annotations",
    "id",
    "audio",
    "type",
    "status",
}
EXAMPLE = {
    "model": "deployed",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "user": "4711",
}


class CompletionRequest(StorableBody, extra="allow", json_schema_extra={"examples": [EXAMPLE]}):
    """Other fields are refused if they would change the reply; if they may, a header names them."""

    model: str = Field(description="One of GET /v1/models.")
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = Field(None, description="Overrides `max_tokens`.")
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = Field(None, description="1, or left out.")
    user: EndUser | None = Field(
        None, description="Your end user, who owns the chat and the vote. Only a keyed hash is stored."
    )
    safety_identifier: EndUser | None = Field(None, description="OpenAI's newer name for `user`.")
    metadata: Annotated[dict[str, EndUser], BeforeValidator(without_nulls)] | None = Field(
        None,
        max_length=16,
        description="Its `user_id` is read like `user`, its `consent` (`true` or `false`) says whether the "
        "chat may be used for training; the rest is ignored.",
    )
    store: bool | None = Field(None, description="false: the chat is not used for training.")

    @property
    def end_user(self) -> str | None:
        """The application's name for its end user, if given."""
        return self.user or self.safety_identifier or (self.metadata or {}).get(USER_ID) or None

    def consent(self, default: bool) -> bool:
        """Whether the chat may be used for training; raises InvalidInput."""
        given = (self.metadata or {}).get(CONSENT)
        if given not in (None, "true", "false"):
            raise InvalidInput(
                f"metadata.{CONSENT} is {given[:80]!r}; it must be 'true' or 'false'.",
                field=f"metadata.{CONSENT}",
            )
        return self.store is not False and (default if given is None else given == "true")

    @property
    def without_effect(self) -> list[str]:
        """The fields that had no effect, though they may have been meant to."""
        in_messages = {
            f"messages.{name}"
            for message in self.messages
            for name in without_effect(message.model_extra or {})
            if name not in READ_IN_MESSAGES
        }
        return [*without_effect(self.model_extra or {}), *sorted(in_messages)]

    @property
    def with_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


def check_supported(asked: CompletionRequest, template_args: Mapping[str, Any]) -> None:
    """Raise InvalidInput for an unsupported field that would change the reply."""
    if asked.n not in (None, 1):
        raise InvalidInput(
            f"n is {asked.n}; only 1 reply at a time is supported.", field="n", code="unsupported_value"
        )
    refuse_unsupported(asked.model_extra or {}, template_args)


def sampling_of(asked: CompletionRequest, default: Sampling) -> Sampling:
    """The request's sampling; raises InvalidInput naming the field."""
    name = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
    most: int | None = getattr(asked, name)
    if most is not None and most < 1:
        raise InvalidInput(f"{name} is {most}; it must be at least 1.", field=name)
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop
    return Sampling(
        temperature=default.temperature if asked.temperature is None else asked.temperature,
        top_p=default.top_p if asked.top_p is None else asked.top_p,
        max_new_tokens=default.max_new_tokens if most is None else min(most, default.max_new_tokens),
        seed=asked.seed,
        stop=tuple(stop or ()),
    )


def split(turns: Sequence[ChatMessage]) -> tuple[str, list[Turn], str]:
    """The system prompt, the earlier turns and the question, in the shape of storage.chats.conversation."""
    try:
        *before, question = shaped(
            Turn(ROLES[turn.role], turn.content, thought(turn.model_extra or {})) for turn in turns
        )
    except InvalidInput as error:
        error.field = "messages"
        raise
    system = before.pop(0).content if before and before[0].role == "system" else ""
    return system, before, question.content


class Answer:
    """Formats one completion, as one answer or as chunks, which all have the same id and time."""

    def __init__(self, completion_id: str, model: str, *, with_usage: bool) -> None:
        self._head = {"id": completion_id, "created": int(time.time()), "model": model}
        self._with_usage = with_usage

    def whole(self, message: Message) -> dict[str, Any]:
        reasoning = {"reasoning_content": message.reasoning} if message.reasoning else {}
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": message.content, "refusal": None, **reasoning},
            "logprobs": None,
            "finish_reason": _finish_reason(message),
        }
        return self._head | {"object": "chat.completion", "choices": [choice], "usage": usage(message)}

    def beginning(self) -> str:
        return self._chunk({"role": "assistant", "content": ""})

    def delta(self, text: str) -> str:
        return self._chunk({"reasoning_content" if isinstance(text, Reasoning) else "content": text})

    def ending(self, message: Message) -> str:
        """The last chunk, the usage if requested, and the end-of-stream marker."""
        end = self._chunk({}, _finish_reason(message))
        if self._with_usage:
            end += self._event([], usage(message))
        return end + "data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._event([choice], None)

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> str:
        chunk = self._head | {"object": "chat.completion.chunk", "choices": choices}
        return event(chunk | {"usage": usage} if self._with_usage else chunk)


def event(data: dict[str, Any]) -> str:
    """A server-sent event without a name, as OpenAI streams them."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _finish_reason(message: Message) -> str:
    return "length" if message.finish_reason == "length" else "stop"


def usage(message: Message) -> dict[str, int]:
    timings = message.timings or {}
    prompt, completion = int(timings.get("prompt_tokens", 0)), int(timings.get("tokens", 0))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
