"""One reply: how it is sampled, the stream that its reader gets, and the base class of what generates it."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from typing import Any, Literal

from app.serving.text import StopStrings
from storage.errors import InvalidInput, ThumbloopError

MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Nothing is taken from the model's own defaults.

    Temperature 0 is greedy. Raises InvalidInput naming the field.
    """

    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        stops_fit = all(0 < len(text) <= MAX_STOP_CHARS for text in self.stop)
        rules = {
            "temperature": (0 <= self.temperature <= 2, "from 0 to 2"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "max_new_tokens": (1 <= self.max_new_tokens < 2**31, "at least 1"),
            "seed": (-(2**63) <= (self.seed or 0) < 2**63, "a whole number of 64 bits"),
            "stop": (
                stops_fit and len(self.stop) <= MAX_STOP_STRINGS,
                f"at most {MAX_STOP_STRINGS} texts of 1 to {MAX_STOP_CHARS} characters",
            ),
        }
        for field, (fits, rule) in rules.items():
            if not fits:
                message = f"{field} is {getattr(self, field)!r}; it must be {rule}."
                raise InvalidInput(message, field=field)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "stop": list(self.stop)}


@dataclass(frozen=True)
class ReplyEnd:
    """The finished reply.

    `content` is all deltas joined. `token_ids` are as generated, including an end token and the tokens of a
    stop string; None if they may not be ids of the local tokenizer. `timings` has queued_s, first_token_s
    (None without a token) and total_s in seconds since the request, and tokens, their number.
    """

    content: str
    finish_reason: FinishReason
    token_ids: list[int] | None
    prompt_tokens: int
    timings: dict[str, Any]


Item = str | ReplyEnd | ThumbloopError  # an item of a stream: more text, or how it ended


class ReplyStream:
    """One reply under way: text deltas for one reader or listener, then its end.

    Generation begins with `start` or with the first read, so that a caller can store what it must first.
    The backend promises one `finish` or `fail` for every stream that began: a reader never hangs.
    """

    def __init__(self, begin: Callable[["ReplyStream"], Callable[[], object]]) -> None:
        """`begin` hands the stream to the backend and returns a function that cancels it there.

        It does not raise: its errors reach the reader through `fail`.
        """
        self._begin = begin
        self._withdraw: Callable[[], object] | None = None
        self._starting = threading.Lock()
        self._cancelled = threading.Event()
        self._items: SimpleQueue[Item] = SimpleQueue()
        self._put: Callable[[Item], object] = self._items.put
        self._outcome: ReplyEnd | ThumbloopError | None = None

    def listen(self, listener: Callable[[Item], object]) -> None:
        """Send every item to the listener, and none to a reader. Call it before the stream begins.

        The listener is called in the backend's own thread, so it must not block.
        """
        self._put = listener

    def start(self) -> None:
        """Start generating; a second call changes nothing."""
        with self._starting:
            if self._withdraw is None:
                self._withdraw = self._begin(self)

    def __iter__(self) -> Iterator[str]:
        """The deltas as they arrive, each valid text; raises the error that ended the reply."""
        self.start()
        while self._outcome is None:
            item = self._items.get()
            if isinstance(item, str):
                yield item
            else:
                self._outcome = item
        if isinstance(self._outcome, ThumbloopError):
            raise self._outcome

    @property
    def end(self) -> ReplyEnd:
        """How the reply ended; reads the rest of the stream first."""
        for _ in self:
            pass
        assert isinstance(self._outcome, ReplyEnd)
        return self._outcome

    def cancel(self) -> None:
        """Stop the reply and keep the text so far. May be called from any thread, at any time."""
        self._cancelled.set()
        self.start()  # so that a stream that never began gives up its admission too
        assert self._withdraw is not None
        self._withdraw()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def write(self, delta: str) -> None:
        """For the backend: more text."""
        if delta:
            self._put(delta)

    def finish(self, end: ReplyEnd) -> None:
        """For the backend: the reply is over."""
        self._put(end)

    def fail(self, error: ThumbloopError) -> None:
        """For the backend: the reply cannot go on."""
        self._put(error)


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
