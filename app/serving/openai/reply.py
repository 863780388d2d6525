"""One reply by an external server: what is requested for it, and what the answer says."""

import asyncio
from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from typing import Any

from app.serving.backend import ServedVersion
from app.serving.openai.breaker import Breaker
from app.serving.reply import FinishReason, Reply, ReplyStream, Request
from storage.chats.reasoning import Parts, Reasoning

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
        self._thought: list[str] = []  # as the server keeps it apart
        self._halves: dict[str, str] = {}  # of surrogate pairs, by the part of the reply that they end
        self._same_prompt = False  # the server read the same prompt ids that training will
        self._usage: dict[str, Any] = {}

    @property
    def has_text(self) -> bool:
        return self._first_at is not None

    def body(self) -> dict[str, Any]:
        """The body of the request to the server."""
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

    async def read(self, chunks: AsyncIterable[dict[str, Any]], breaker: Breaker) -> FinishReason:
        """Pass the text of a completion on as it arrives; returns why the reply ends."""
        reason: FinishReason = "stop"
        self._token_ids, self._usage = [], {}
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

    def _take(self, choice: dict[str, Any]) -> None:
        self._token_ids += choice.get("token_ids") or []
        delta = choice["delta"]
        if reasoning := delta["reasoning_content"] or delta["reasoning"]:
            self._note_token()
            self._pieces += 1
            self._think(self._paired("reasoning", reasoning))
        if text := delta["content"]:
            self._note_token()
            self._pieces += 1
            self._add(self._paired("content", text))

    def _paired(self, part: str, text: str) -> str:
        """Text that can be stored: a server that counts in UTF-16 may cut a character in two."""
        text = self._halves.pop(part, "") + text
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._halves[part] = text[:-1], text[-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _think(self, text: str) -> None:
        """Pass on reasoning that the server itself keeps apart; then no content has any."""
        self._parts.say_the_rest()
        self._thought.append(text)
        self.stream.write(Reasoning(text))

    def _said(self) -> Parts:
        if not self._thought:
            return super()._said()
        return Parts("".join(self._thought).strip(), "".join(self._written).lstrip())

    def _tokens(self) -> int:
        # Servers that report no usage send one token per chunk.
        return self._used("completion_tokens", len(self._token_ids) or self._pieces)

    def _prompt_tokens(self) -> int:
        return self._used("prompt_tokens", super()._prompt_tokens())

    def _used(self, name: str, otherwise: int) -> int:
        count = self._usage.get(name)  # some servers report null
        return count if isinstance(count, int) else otherwise

    def _known_ids(self) -> list[int] | None:
        return self._token_ids if self._same_prompt else None
