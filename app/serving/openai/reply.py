"""One reply by an external server: asked for, tried again while nothing of it was read, and passed on.

Knows the server's chunks and a reply stream; knows no version and no line of waiting replies.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from app.serving.backend import FinishReason, ReplyEnd, ReplyStream, Sampling
from app.serving.openai.breaker import Breaker
from app.serving.openai.client import FAILED, MISSING, ModelServer
from app.serving.text import StopStrings
from storage.errors import ThumbloopError

log = logging.getLogger("thumbloop.serving")

ATTEMPTS = 3
FIRST_PAUSE_SECONDS = 0.2
MOST_STOPS = 4  # OpenAI takes no more; those beyond are found here


@dataclass(frozen=True)
class ExternalRequest:
    """What is asked for; `prompt` is the conversation in ids of the local tokenizer, if there is one."""

    model: str
    person: str
    messages: Sequence[Mapping[str, str]]
    prompt: list[int] | None
    sampling: Sampling
    limit: int
    asked_at: float

    def body(self) -> dict[str, Any]:
        sampling = self.sampling
        body = {
            "model": self.model,
            "messages": [dict(message) for message in self.messages],
            "max_tokens": self.limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.stop:
            body["stop"] = list(sampling.stop[:MOST_STOPS])
        return body


class ExternalReply:
    """Made when its stream begins."""

    def __init__(self, request: ExternalRequest, stream: ReplyStream) -> None:
        self.request = request
        self.stream = stream
        self._stops = StopStrings(request.sampling.stop)
        self._began_at: float | None = None
        self._first_at: float | None = None
        self._content: list[str] = []
        self._pieces = 0
        self._token_ids: list[int] = []
        self._same_prompt = False  # the server read the very ids that training will
        self._usage: dict[str, Any] = {}

    async def generate(
        self,
        server: ModelServer,
        breaker: Breaker,
        extra: Mapping[str, Any],
        find_model: Callable[[ThumbloopError], Awaitable[object]],
    ) -> FinishReason:
        """Pass the reply on as it comes. Nothing is asked for twice once some of it has come.

        `extra` are request fields that only this server knows. `find_model` is called when the server does
        not know the model, and raises if that stays so. Raises Busy,
        NotReady, InvalidInput, and ThumbloopError (code `generation_failed`) for a reply that broke off.
        """
        self._began_at = time.perf_counter()
        for attempt in range(1, ATTEMPTS + 1):
            breaker.check()  # here, because its refusal is no failed attempt
            try:
                with breaker.attempt():
                    return await self._attempt(server, breaker, extra)
            except ThumbloopError as error:
                if self._first_at is not None:
                    log.error("A reply broke off: %s", error.message)
                    raise broken_off() from error
                if attempt == ATTEMPTS or error.code not in (FAILED, MISSING):
                    raise
                if error.code == MISSING:
                    await find_model(error)
                log.warning("A reply is asked for again: %s", error.message)
            await asyncio.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")

    def seconds(self) -> float | None:
        """Since it left the line, if it did."""
        return None if self._began_at is None else time.perf_counter() - self._began_at

    def finish(self, reason: FinishReason) -> None:
        """Tell the reader."""
        if not self._stops.found:
            self._write(self._stops.flush())
        ended = time.perf_counter()
        began, asked = self._began_at or ended, self.request.asked_at
        prompt = self.request.prompt or []
        timings = {
            "queued_s": round(began - asked, 4),
            "first_token_s": round(self._first_at - asked, 4) if self._first_at else None,
            "total_s": round(ended - asked, 4),
            # Servers that count nothing send a token in each chunk.
            "tokens": self._usage.get("completion_tokens", len(self._token_ids) or self._pieces),
        }
        ids = self._token_ids if self._same_prompt else None
        prompt_tokens = self._usage.get("prompt_tokens", len(prompt))
        self.stream.finish(ReplyEnd("".join(self._content), reason, ids, prompt_tokens, timings))

    async def _attempt(self, server: ModelServer, breaker: Breaker, extra: Mapping[str, Any]) -> FinishReason:
        reason: FinishReason = "stop"
        self._token_ids, self._usage = [], {}
        async with aclosing(server.chat({**self.request.body(), **extra})) as chunks:
            async for chunk in chunks:
                breaker.succeed()
                if chunk.get("prompt_token_ids"):
                    self._same_prompt = chunk["prompt_token_ids"] == self.request.prompt
                self._usage = chunk.get("usage") or self._usage
                for choice in chunk["choices"]:
                    self._take(choice)
                    if choice.get("finish_reason") == "length":
                        reason = "length"
                if self._stops.found:
                    return "stop"  # a server that does not know stop strings ends when the stream is closed
        return reason

    def _take(self, choice: dict[str, Any]) -> None:
        self._token_ids += choice.get("token_ids") or []
        text = (choice.get("delta") or {}).get("content")
        if text:
            self._first_at = self._first_at or time.perf_counter()
            self._pieces += 1
            self._write(self._stops.add(text))

    def _write(self, delta: str) -> None:
        self._content.append(delta)
        self.stream.write(delta)


def broken_off() -> ThumbloopError:
    return ThumbloopError(
        "The model server failed during this reply; ask for it again. The log has the details.",
        code="generation_failed",
    )
