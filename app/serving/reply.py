"""One reply: how it is sampled, the stream that its reader gets, and the base class of what generates it."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from app.serving.text import StopStrings
from storage.chats.reasoning import Parts, Reasoning, Splitter, apart
from storage.chats.reasoning_tags import Tag
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
            "max_new_tokens": (1 <= self.max_new_tokens < 2**31, "from 1 to 2147483647"),
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

    `content` is all deltas joined that are not reasoning; but a closing tag that nothing opened shows at the
    end only, and takes what came before it out of `content`. `token_ids` are as generated, including an end
    token and the tokens of a stop string; None if they may not be ids of the local tokenizer. `timings` has
    queued_s, first_token_s (None without a token) and total_s in seconds since the request, and tokens, their
    number.
    """

    content: str
    finish_reason: FinishReason
    token_ids: list[int] | None
    prompt_tokens: int
    timings: dict[str, Any]
    reasoning: str = ""


class Queued(str):
    """An empty delta: the reply waits at this `place`, 1 for the next, for about so many seconds."""

    place: int
    seconds: int

    def __new__(cls, place: int, seconds: int) -> "Queued":
        made = super().__new__(cls, "")
        made.place, made.seconds = place, seconds
        return made


Outcome = ReplyEnd | ThumbloopError
# Hands a stream to the backend and returns a function that cancels it there. It does not raise.
Begin = Callable[["ReplyStream"], Callable[[], object]]


class ReplyStream:
    """One reply under way: text for any number of readers, each from its beginning, and then its end.

    Generation begins with `start` or with the first read, so that a caller can store what it must first.
    The backend promises one `close` for every stream that began: a reader never hangs.
    """

    def __init__(self, begin: Begin) -> None:
        self.begin = begin
        self._withdraw: Callable[[], object] | None = None
        self._starting = threading.Lock()
        self._changed = threading.Condition()  # guards the fields below
        self._deltas: list[str] = []
        self._outcome: Outcome | None = None
        self._readers: list[Callable[[], object]] = []  # called at every change

    def start(self) -> None:
        """Start generating; a second call changes nothing."""
        with self._starting:
            if self._withdraw is None:
                self._withdraw = self.begin(self)

    def cancel(self) -> None:
        """Stop within a token or two and keep the text so far. May be called from any thread, at any time."""
        if not self.over:
            self.start()  # so that a stream that never began gives up its admission too
            assert self._withdraw is not None
            self._withdraw()

    def __iter__(self) -> Iterator[str]:
        """The deltas as they arrive, valid texts, some Reasoning, before them Queued ones.

        Raises the error that ended the reply.
        """
        self.start()
        with self._reading():
            seen = 0

            def has_more() -> bool:
                return len(self._deltas) > seen

            while self._wait_for(has_more) and has_more():
                yield self._deltas[seen]
                seen += 1
        self._check()

    async def follow(self, silence: float) -> AsyncIterator[str | None]:
        """The same in an event loop: the text since the last item, or None after `silence` seconds without.

        It takes no thread. A busy loop gets all the deltas of one kind that arrived meanwhile as one item.
        """
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            if not news.is_set():
                loop.call_soon_threadsafe(news.set)

        with self._reading(wake):
            seen = 0
            while True:
                news.clear()
                with self._changed:
                    new, seen, over = self._deltas[seen:], len(self._deltas), self.over
                texts = _joined([delta for delta in new if delta])
                for text in texts:
                    yield text
                if texts:
                    continue
                if over:
                    break
                else:
                    alarm = loop.call_later(silence, news.set)
                    await news.wait()
                    alarm.cancel()
                    if len(self._deltas) == seen and not self.over:
                        yield None
        self._check()

    @property
    def over(self) -> bool:
        return self._outcome is not None

    @property
    def text(self) -> str:
        """The text so far, without reasoning."""
        return self.parts.reply

    @property
    def parts(self) -> Parts:
        """The reasoning and the text so far."""
        with self._changed:
            deltas = [*self._deltas]
        thought = "".join(delta for delta in deltas if isinstance(delta, Reasoning))
        return Parts(thought, "".join(delta for delta in deltas if not isinstance(delta, Reasoning)))

    @property
    def end(self) -> ReplyEnd:
        """How the reply ended; waits for it, and raises the error that ended it."""
        self.start()
        self._wait_for(lambda: False)
        self._check()
        assert isinstance(self._outcome, ReplyEnd)
        return self._outcome

    def write(self, delta: str) -> None:
        """For the backend: more text. It is called in the backend's own thread, as `close` is."""
        if delta:
            with self._changed:
                self._deltas.append(delta)
                self._notify()

    def queue(self, place: int, seconds: int) -> None:
        """For the backend: the reply waits for its turn."""
        with self._changed:
            last = self._deltas[-1] if self._deltas else None
            if not isinstance(last, Queued) or last.place != place:
                self._deltas.append(Queued(place, seconds))
                self._notify()

    def close(self, outcome: Outcome) -> None:
        """For the backend: the reply is over, or cannot go on."""
        with self._changed:
            self._outcome = outcome
            self._notify()

    @contextmanager
    def _reading(self, callback: Callable[[], object] = lambda: None) -> Iterator[None]:
        with self._changed:
            self._readers.append(callback)
        try:
            yield
        finally:
            with self._changed:
                self._readers.remove(callback)
                abandoned = not self._readers and not self.over
            if abandoned:
                self._abandon()

    def _abandon(self) -> None:
        """Called when the last reader has left before the end."""

    def _wait_for(self, news: Callable[[], bool]) -> bool:
        """Wait for the news or the end."""
        with self._changed:
            return self._changed.wait_for(lambda: news() or self.over)

    def _notify(self) -> None:
        self._changed.notify_all()
        for callback in self._readers:
            callback()

    def _check(self) -> None:
        if isinstance(self._outcome, ThumbloopError):
            raise self._outcome


def _joined(deltas: Sequence[str]) -> list[str]:
    """Deltas of one kind, reasoning or not, that follow each other as one."""
    return [kind("".join(same)) for kind, same in itertools.groupby(deltas, type)]


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
    opened: Tag | None = None  # by which the prompt ends, so that the model's reasoning is open


class Reply:
    """What the replies of both backends have in common."""

    def __init__(self, request: Request, stream: ReplyStream) -> None:
        self.request = request
        self.stream = stream
        self._stops = StopStrings(request.sampling.stop)
        self._began_at: float | None = None
        self._first_at: float | None = None
        self._parts = Splitter(opened=request.opened)
        self._written: list[str] = []  # by the model, with its tags
        self._token_ids: list[int] = []

    def begin(self) -> None:
        """Note that the reply left the queue."""
        self._began_at = time.perf_counter()

    def seconds(self) -> float | None:
        """Seconds since it left the queue; None if it did not."""
        return None if self._began_at is None else time.perf_counter() - self._began_at

    def end(self, outcome: FinishReason | ThumbloopError) -> None:
        """Close the stream."""
        if isinstance(outcome, ThumbloopError):
            self.stream.close(outcome)
            return
        if not self._stops.found:
            self._write(self._stops.add(self._rest()))
            self._write(self._stops.flush())
        for piece in self._parts.flush():
            self.stream.write(piece)
        ended, asked = time.perf_counter(), self.request.asked_at
        timings = {
            "queued_s": round((self._began_at or ended) - asked, 4),
            "first_token_s": round(self._first_at - asked, 4) if self._first_at else None,
            "total_s": round(ended - asked, 4),
            "tokens": self._tokens(),
        }
        reasoning, content = self._said()
        known, prompt_tokens = self._known_ids(), self._prompt_tokens()
        self.stream.close(ReplyEnd(content, outcome, known, prompt_tokens, timings, reasoning))

    def _add(self, text: str) -> None:
        """Pass on more text; what may become a stop string is held back."""
        self._write(self._stops.add(text))

    def _note_token(self) -> None:
        self._first_at = self._first_at or time.perf_counter()

    def _write(self, delta: str) -> None:
        self._written.append(delta)
        for piece in self._parts.add(delta):
            self.stream.write(piece)

    def _said(self) -> Parts:
        """The complete reasoning and reply."""
        return apart("".join(self._written), opened=self.request.opened)

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
