"""The Backend protocol: holds model versions and turns messages into reply streams.

Independent of how a reply is generated and where it is stored.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, Protocol

from storage.errors import Busy, InvalidInput, NotReady, ThumbloopError

MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class ServedVersion:
    """A model version that a backend can hold; the base model has no adapter."""

    id: str
    name: str
    adapter: Path | None


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
        _check("temperature", self.temperature, "from 0 to 2", _is_number(self.temperature, 0, 2))
        _check("top_p", self.top_p, "above 0 and at most 1", self.top_p != 0 and _is_number(self.top_p, 0, 1))
        _check("max_new_tokens", self.max_new_tokens, "at least 1", _is_whole(self.max_new_tokens, 1, 2**31))
        if self.seed is not None:
            _check("seed", self.seed, "a whole number of 64 bits", _is_whole(self.seed, -(2**63), 2**63 - 1))
        rule = f"at most {MAX_STOP_STRINGS} texts of 1 to {MAX_STOP_CHARS} characters"
        fits = len(self.stop) <= MAX_STOP_STRINGS
        fits = fits and all(isinstance(text, str) and 0 < len(text) <= MAX_STOP_CHARS for text in self.stop)
        _check("stop", list(self.stop), rule, fits)

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
class Occupancy:
    """Counts of replies, as of a moment ago. An admitted reply may not have begun yet."""

    running: int
    waiting: int
    admitted: int


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model reads it: its token ids, if known, and their share of the context."""

    messages: Sequence[Mapping[str, str]]
    ids: list[int] | None
    share: float


class Backend(Protocol):
    """Holds model versions and generates with any of them at the same time."""

    def load(self, version: ServedVersion) -> None:
        """Load the version and try it once, unless it is loaded already.

        The caller has verified the adapter's folder. Raises ArtifactRefused.
        """

    def loaded(self) -> list[str]:
        """Ids of the versions that can reply now."""

    def unload(self, version_id: str) -> bool:
        """Free the version. While one of its replies is under way, do nothing and return False."""

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """Tokenise the messages in advance; pass the result to `stream`."""

    def stream(
        self,
        version_id: str,
        messages: Sequence[Mapping[str, str]] | Prompt,
        sampling: Sampling,
        *,
        person: str = "",
    ) -> ReplyStream:
        """Admit one reply, which keeps the version loaded until the stream is over.

        Waiting replies start in a fair order between persons; `person` is an opaque key. The caller must
        start or cancel the stream: until then it counts as admitted. Raises Busy, InvalidInput (code
        `prompt_too_long`), NotReady (code `not_loaded`).
        """

    def trouble(self) -> str | None:
        """Why no version can reply now, in words that anyone may read; None if all is well."""

    def occupancy(self) -> Occupancy:
        """How many replies are being generated, are waiting, and are admitted."""

    def close(self) -> None:
        """Cancel every reply and free the models."""


def prompt_too_long(tokens: int, most: int) -> InvalidInput:
    return InvalidInput(
        f"The conversation is {tokens} tokens long, but the model reads at most {most}, "
        f"its reply included. Shorten the message or start a new chat.",
        code="prompt_too_long",
        field="content",
    )


def stopping() -> NotReady:
    return NotReady("The server is stopping; send the message again once it is back.")


def unloaded() -> Busy:
    return Busy("The model was unloaded before this reply began; send the message again.")


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _check(field: str, value: object, rule: str, fits: bool) -> None:
    if not fits:
        raise InvalidInput(f"{field} is {value!r}; it must be {rule}.", field=field)
