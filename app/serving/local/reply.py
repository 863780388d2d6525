"""One reply in the making: token ids in, text out to its stream, and how it came about.

Knows the tokenizer and a reply stream; knows no model and no thread.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.serving.backend import FinishReason, ReplyEnd, ReplyStream, Sampling
from app.serving.local.sampling import Sampler
from app.serving.text import Detokeniser, StopStrings


@dataclass(frozen=True)
class Request:
    """What is asked of a version; `limit` is in tokens, `asked_at` is `time.perf_counter()` then."""

    id: str
    version_id: str
    person: str
    prompt: list[int]
    sampling: Sampling
    limit: int
    asked_at: float


class Reply:
    """Made when its stream begins."""

    def __init__(
        self, request: Request, stream: ReplyStream, tokenizer: Any, end_ids: frozenset[int]
    ) -> None:
        self.request = request
        self.stream = stream
        self.sampler = Sampler(request.sampling)
        self._text = Detokeniser(tokenizer)
        self._stops = StopStrings(request.sampling.stop)
        self._end_ids = end_ids
        self._began_at: float | None = None
        self._first_at: float | None = None
        self._token_ids: list[int] = []
        self._content: list[str] = []

    def begin(self) -> None:
        """It leaves the waiting line."""
        self._began_at = time.perf_counter()

    def take(self, tokens: Sequence[int]) -> FinishReason | None:
        """Pass on what is new in all the tokens so far; says why the reply ends, if it does."""
        for token in tokens[len(self._token_ids) :]:
            self._first_at = self._first_at or time.perf_counter()
            self._token_ids.append(token)
            if token in self._end_ids:
                return "stop"
            self._write(self._stops.add(self._text.add(token)))
            if self._stops.found:
                return "stop"
        return "length" if len(self._token_ids) >= self.request.limit else None

    def seconds(self) -> float:
        """Since it left the line."""
        return time.perf_counter() - (self._began_at or time.perf_counter())

    def finish(self, reason: FinishReason) -> None:
        """Tell the reader."""
        if not self._stops.found:
            self._write(self._stops.add(self._text.flush()))
            self._write(self._stops.flush())
        ended = time.perf_counter()
        began = self._began_at or ended
        asked = self.request.asked_at
        timings = {
            "queued_s": round(began - asked, 4),
            "first_token_s": round(self._first_at - asked, 4) if self._first_at else None,
            "total_s": round(ended - asked, 4),
            "tokens": len(self._token_ids),
        }
        self.stream.finish(
            ReplyEnd("".join(self._content), reason, self._token_ids, len(self.request.prompt), timings)
        )

    def _write(self, delta: str) -> None:
        self._content.append(delta)
        self.stream.write(delta)
