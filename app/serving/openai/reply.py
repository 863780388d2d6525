"""One reply by an external server: requests it, retries while no text has arrived, and passes it on."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from tenacity import (
    AsyncRetrying,
    TryAgain,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from app.serving.backend import ServedVersion
from app.serving.openai.breaker import Breaker
from app.serving.openai.client import FAILED, MISSING, ModelServer
from app.serving.reply import FinishReason, Reply, ReplyStream, Request
from storage.errors import ThumbloopError

log = logging.getLogger("thumbloop.serving")

ATTEMPTS = 3
PAUSE_SECONDS = 0.4  # at most, before the second attempt; twice that before the third
MOST_STOPS = 4  # OpenAI accepts no more; further ones are found here


@dataclass(eq=False)
class ExternalVersion:
    """A version that the server can reply with."""

    version: ServedVersion
    model: str  # its name on the server
    repairing: asyncio.Lock = field(default_factory=asyncio.Lock)


class ExternalReply(Reply):
    """Created when its stream begins."""

    def __init__(self, request: Request, stream: ReplyStream, loaded: ExternalVersion) -> None:
        super().__init__(request, stream)
        self.loaded = loaded
        self._pieces = 0
        self._same_prompt = False  # the server read the same prompt ids that training will
        self._usage: dict[str, Any] = {}

    async def generate(
        self,
        server: ModelServer,
        breaker: Breaker,
        extra: Mapping[str, Any],
        find_model: Callable[[ThumbloopError], Awaitable[object]],
    ) -> FinishReason:
        """Stream the reply on as it arrives. Once a part has arrived, it is not requested again.

        `extra` are request fields that only this server accepts. `find_model` is called if the server does
        not know the model, and raises if it cannot be loaded. Raises Busy, NotReady, InvalidInput, and
        ThumbloopError (code `generation_failed`) for a reply that broke off.
        """
        retries = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=PAUSE_SECONDS),
            retry=retry_if_exception(lambda error: getattr(error, "code", "") == FAILED),
            before_sleep=lambda state: log.warning(
                "A reply is requested again: %s", state.outcome and state.outcome.exception()
            ),
            reraise=True,
        )
        async for attempt in retries:
            breaker.check()  # outside the attempt: its refusal is not retried
            with attempt:
                try:
                    with breaker.attempt():
                        return await self._attempt(server, breaker, extra)
                except ThumbloopError as error:
                    if self._first_at is not None:
                        log.error("A reply broke off: %s", error.message)
                        raise broken_off() from error
                    if error.code == MISSING and attempt.retry_state.attempt_number < ATTEMPTS:
                        await find_model(error)
                        raise TryAgain(error.message) from error
                    raise
        raise AssertionError("unreachable")

    async def _attempt(self, server: ModelServer, breaker: Breaker, extra: Mapping[str, Any]) -> FinishReason:
        reason: FinishReason = "stop"
        self._token_ids, self._usage = [], {}
        async with aclosing(server.chat({**self._body(), **extra})) as chunks:
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
                    return "stop"  # closing the stream stops a server that ignores stop strings
        return reason

    def _body(self) -> dict[str, Any]:
        request, sampling = self.request, self.request.sampling
        body = {
            "model": self.loaded.model,
            "messages": [dict(message) for message in request.messages],
            "max_tokens": request.limit,
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

    def _take(self, choice: dict[str, Any]) -> None:
        self._token_ids += choice.get("token_ids") or []
        text = (choice.get("delta") or {}).get("content")
        if text:
            self._note_token()
            self._pieces += 1
            self._add(text)

    def _tokens(self) -> int:
        # Servers that report no usage send one token per chunk.
        return int(self._usage.get("completion_tokens", len(self._token_ids) or self._pieces))

    def _prompt_tokens(self) -> int:
        return int(self._usage.get("prompt_tokens", super()._prompt_tokens()))

    def _known_ids(self) -> list[int] | None:
        return self._token_ids if self._same_prompt else None


def broken_off() -> ThumbloopError:
    return ThumbloopError(
        "The model server failed during this reply; ask for it again. The log has the details.",
        code="generation_failed",
    )
