"""One reply being generated: the request, the text sent to its stream, and the timings.

The base class of both backends' replies.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.serving.backend import FinishReason, ReplyEnd, ReplyStream, Sampling
from app.serving.text import StopStrings
from storage.errors import ThumbloopError


@dataclass(frozen=True)
class Request:
    """A request for one reply.

    `prompt` has the token ids of the conversation, if there is a local tokenizer; `limit` is in tokens;
    `asked_at` is the `time.perf_counter()` of the request.
    """

    id: str
    version_id: str
    person: str
    messages: Sequence[Mapping[str, str]]
    prompt: list[int] | None
    sampling: Sampling
    limit: int
    asked_at: float


class Reply:
    """What the replies of both backends have in common."""

    def __init__(self, request: Request, stream: ReplyStream) -> None:
        self.request = request
        self.stream = stream
        self._stops = StopStrings(request.sampling.stop)
        self._began_at: float | None = None
        self._first_at: float | None = None
        self._content: list[str] = []
        self._token_ids: list[int] = []

    def begin(self) -> None:
        """Note that the reply left the queue."""
        self._began_at = time.perf_counter()

    def seconds(self) -> float | None:
        """Seconds since it left the queue; None if it did not."""
        return None if self._began_at is None else time.perf_counter() - self._began_at

    def end(self, outcome: FinishReason | ThumbloopError) -> None:
        """Finish or fail the stream."""
        if isinstance(outcome, ThumbloopError):
            self.stream.fail(outcome)
            return
        if not self._stops.found:
            self._write(self._stops.add(self._rest()))
            self._write(self._stops.flush())
        ended, asked = time.perf_counter(), self.request.asked_at
        timings = {
            "queued_s": round((self._began_at or ended) - asked, 4),
            "first_token_s": round(self._first_at - asked, 4) if self._first_at else None,
            "total_s": round(ended - asked, 4),
            "tokens": self._tokens(),
        }
        content, prompt_tokens = "".join(self._content), self._prompt_tokens()
        self.stream.finish(ReplyEnd(content, outcome, self._known_ids(), prompt_tokens, timings))

    def _add(self, text: str) -> None:
        """Pass on more text; what may become a stop string is held back."""
        self._write(self._stops.add(text))

    def _note_token(self) -> None:
        self._first_at = self._first_at or time.perf_counter()

    def _write(self, delta: str) -> None:
        self._content.append(delta)
        self.stream.write(delta)

    # The backends find these in different ways.

    def _rest(self) -> str:
        """Text not yet passed on when the reply ends."""
        return ""

    def _tokens(self) -> int:
        return len(self._token_ids)

    def _prompt_tokens(self) -> int:
        return len(self.request.prompt or [])

    def _known_ids(self) -> list[int] | None:
        return self._token_ids
