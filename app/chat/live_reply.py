"""A reply being generated: its text so far, for any number of readers."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.serving.reply import ReplyStream
from storage.db.tables import Message
from storage.errors import ThumbloopError


@dataclass(eq=False)
class LiveReply:
    """A reply under way. Any number of readers may iterate it, each from the first delta.

    When the last reader leaves before the end, the reply is cancelled: the client is gone.
    """

    chat_id: str
    user_message_id: str
    message_id: str
    model_version: str
    stream: ReplyStream

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._deltas: list[str] = []
        self._came_at = 0.0  # when the last delta arrived
        self._callbacks: list[Callable[[], object]] = []  # one per reader, called at every change
        self._saved: Message | None = None
        self._error: ThumbloopError | None = None

    def __iter__(self) -> Iterator[str]:
        """The deltas, to the end; then the reply is saved. Raises the error that ended the reply."""
        with self._reading():
            seen = 0
            while (delta := self._wait_for(seen)) is not None:
                yield delta
                seen += 1
        if self._error is not None:
            raise self._error

    async def follow(self, silence: float) -> AsyncIterator[str | None]:
        """The same in an event loop: the text since the last item, or None after `silence` seconds without.

        It takes no thread. A busy loop gets all the deltas that arrived meanwhile as one item.
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
                    text, seen, over = "".join(self._deltas[seen:]), len(self._deltas), self.over
                if text:
                    yield text
                elif over:
                    break
                else:
                    alarm = loop.call_later(silence, news.set)
                    await news.wait()
                    alarm.cancel()
                    if len(self._deltas) == seen and not self.over:
                        yield None
        if self._error is not None:
            raise self._error

    @property
    def over(self) -> bool:
        return self._saved is not None or self._error is not None

    def cancel(self) -> None:
        """Stop within a token or two; the text so far is saved. After the end it does nothing."""
        if not self.over:
            self.stream.cancel()

    def message(self) -> Message:
        """The saved reply; waits for its end and raises the error that ended it."""
        with self._changed:
            self._changed.wait_for(lambda: self.over)
        if self._error is not None:
            raise self._error
        assert self._saved is not None
        return self._saved

    @property
    def text(self) -> str:
        """The text so far."""
        with self._changed:
            return "".join(self._deltas)

    def add(self, delta: str) -> float | None:
        """For the service: add text. Returns the seconds since the previous text, None for the first."""
        now = time.monotonic()
        with self._changed:
            since = now - self._came_at if self._deltas else None
            self._came_at = now
            self._deltas.append(delta)
            self._notify()
        return since

    def close(self, saved: Message | None, error: ThumbloopError | None) -> None:
        """For the service: end the reply, as saved or with an error."""
        with self._changed:
            self._saved, self._error = saved, error
            self._notify()

    @contextmanager
    def _reading(self, callback: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Count a reader; the last one to leave before the end cancels the reply."""
        with self._changed:
            self._callbacks.append(callback)
        try:
            yield
        finally:
            with self._changed:
                self._callbacks.remove(callback)
                abandoned = not self._callbacks and not self.over
            if abandoned:
                self.cancel()

    def _notify(self) -> None:
        self._changed.notify_all()
        for callback in self._callbacks:
            callback()

    def _wait_for(self, seen: int) -> str | None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._deltas) > seen or self.over)
            return self._deltas[seen] if len(self._deltas) > seen else None
