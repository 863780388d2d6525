"""OpenAI's Responses API in its basic form, text in and text out: parses requests and formats answers.

A request is read as a chat completion, by the same rules.
"""

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from app.api.openai.completions import ChatMessage, CompletionRequest, EndUser, usage
from app.web.openapi_names import StorableBody, without_nulls
from storage.chats.conversation import TOOLS
from storage.chats.reasoning import Reasoning
from storage.db.tables import Message
from storage.errors import InvalidInput

# The values of each field that do not change the reply; another one is refused. Nothing is kept between calls
# but the chat, so a request cannot go on from an earlier one.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "previous_response_id": (),
    "conversation": (),
    "prompt": (),
    "background": (False,),
    "text": ({}, {"format": {"type": "text"}}),
    "truncation": ("disabled",),
}


def _items(given: Any) -> Any:
    """The input as messages: a reasoning item belongs to the assistant's message after it."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        return given
    messages: list[Any] = []
    thought = ""
    for item in given:
        kind = item.get("type", "message") if isinstance(item, dict) else "message"
        if kind == "reasoning":
            thought += _thought(item)
        elif kind in TOOLS or kind in ("function_call_output", "item_reference"):
            raise ValueError(f"tool messages and references ({kind}) are not supported; send the texts alone")
        elif kind != "message":
            raise ValueError(f"it holds an item of the type {str(kind)[:80]!r}; only messages are read")
        elif thought and isinstance(item, dict) and item.get("role") == "assistant":
            messages.append(item | {"reasoning_content": thought})
            thought = ""
        else:
            messages.append(item)
    return messages


def _thought(item: dict[str, Any]) -> str:
    parts = item.get("content") or item.get("summary") or []
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return "\n\n".join(text for text in texts if isinstance(text, str))


EXAMPLE = {"model": "deployed", "input": "What is the capital of France?", "user": "4711"}


class ResponseRequest(StorableBody, extra="allow", json_schema_extra={"examples": [EXAMPLE]}):
    """Other fields are refused if they would change the reply; if they may, a header names them."""

    model: str = Field(description="One of GET /v1/models.")
    input: Annotated[list[ChatMessage], Field(min_length=1), BeforeValidator(_items)] = Field(
        description="A text, or messages, the last of them the user's."
    )
    instructions: str | None = Field(None, description="A system message before the input.")
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool = False
    user: EndUser | None = None
    safety_identifier: EndUser | None = None
    metadata: Annotated[dict[str, EndUser], BeforeValidator(without_nulls)] | None = Field(
        None, max_length=16
    )
    store: bool | None = Field(None, description="false: the chat is not used for training.")

    def as_completion(self) -> CompletionRequest:
        """The same as a chat completion. Raises InvalidInput for what would change the reply."""
        others = {name: value for name, value in (self.model_extra or {}).items() if value is not None}
        others.pop("stream_options", None)  # its one option here pads the events
        for name, value in others.items():
            if name in CompletionRequest.model_fields or (name in NEUTRAL and value not in NEUTRAL[name]):
                raise InvalidInput(
                    f"{name} is not supported; leave it out.", field=name, code="unsupported_parameter"
                )
        system = [ChatMessage(role="system", content=self.instructions)] if self.instructions else []
        same = {"model", "temperature", "top_p", "user", "safety_identifier", "metadata", "store"}
        return CompletionRequest(
            **{name: value for name, value in others.items() if name not in NEUTRAL},
            **self.model_dump(include=same),
            messages=[*system, *self.input],
            max_completion_tokens=self.max_output_tokens,
        )


class ResponseAnswer:
    """Formats one response, as one answer or as events, which are numbered."""

    def __init__(self, response_id: str, model: str, asked: ResponseRequest) -> None:
        self._id = response_id
        self._number = 0
        self._head = {
            "id": response_id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "error": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "temperature": asked.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": asked.top_p,
            "truncation": "disabled",
        }

    def whole(self, message: Message) -> dict[str, Any]:
        cut = message.finish_reason == "length"
        counts = usage(message)
        thought = {"type": "reasoning_text", "text": message.reasoning}
        reasoning = {"type": "reasoning", "id": f"rs_{self._id}", "summary": [], "content": [thought]}
        return self._head | {
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [*([reasoning] if message.reasoning else []), self._item(message.content, cut=cut)],
            "usage": {
                "input_tokens": counts["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": counts["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": counts["total_tokens"],
            },
        }

    def beginning(self) -> Iterator[str]:
        begun = self._head | {
            "status": "in_progress",
            "incomplete_details": None,
            "output": [],
            "usage": None,
        }
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)
        item = self._item("", status="in_progress") | {"content": []}
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._event("response.content_part.added", **self._place, part=_part(""))

    def delta(self, text: str) -> str:
        if isinstance(text, Reasoning):
            return self._event("response.reasoning_text.delta", **self._place, delta=text)
        return self._event("response.output_text.delta", **self._place, delta=text, logprobs=[])

    def ending(self, message: Message) -> Iterator[str]:
        whole = self.whole(message)
        text, item = message.content, whole["output"][-1]
        yield self._event("response.output_text.done", **self._place, text=text, logprobs=[])
        yield self._event("response.content_part.done", **self._place, part=_part(text))
        yield self._event("response.output_item.done", output_index=0, item=item)
        yield self._event(f"response.{whole['status']}", response=whole)

    def failure(self, error: dict[str, Any]) -> str:
        return self._event("error", code=error["code"], message=error["message"], param=error["param"])

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": f"msg_{self._id}", "output_index": 0, "content_index": 0}

    def _item(self, text: str, *, cut: bool = False, status: str = "") -> dict[str, Any]:
        return {
            "type": "message",
            "id": f"msg_{self._id}",
            "status": status or ("incomplete" if cut else "completed"),
            "role": "assistant",
            "content": [_part(text)],
        }

    def _event(self, kind: str, **data: Any) -> str:
        body = {"type": kind, "sequence_number": self._number, **data}
        self._number += 1
        return f"event: {kind}\ndata: {json.dumps(body, ensure_ascii=False)}\n\n"


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
