"""A reply while it is written: what has come so far, for any number of readers.

Knows a reply stream and the stored message; knows no database.
"""

import threading
from collections.abc import Iterator

from app.serving.backend import ReplyStream
from storage.errors import ThumbloopError
from storage.tables import Message


class LiveReply:
    """A reply under way. Any number of readers may iterate it, each from its first delta.

    When the last reader leaves before the end, the reply is cancelled: the client is gone.
    """

    def __init__(
        self, chat_id: str, user_message_id: str, message_id: str, model_version: str, stream: ReplyStream
    ) -> None:
        self.chat_id = chat_id
        self.user_message_id = user_message_id
        self.message_id = message_id
        self.model_version = model_version
        self._stream = stream
        self._changed = threading.Condition()
        self._deltas: list[str] = []
        self._readers = 0
        self._saved: Message | None = None
        self._error: ThumbloopError | None = None

    def __iter__(self) -> Iterator[str]:
        """The deltas, to the end; raises the error that ended the reply. The end means it is saved."""
        with self._changed:
            self._readers += 1
        try:
            seen = 0
            while (delta := self._wait_for(seen)) is not None:
                yield delta
                seen += 1
        finally:
            with self._changed:
                self._readers -= 1
                abandoned = not self._readers and not self.over
            if abandoned:
                self.cancel()
        if self._error is not None:
            raise self._error

    @property
    def over(self) -> bool:
        return self._saved is not None or self._error is not None

    def cancel(self) -> None:
        """Stop within a token or two; the text so far is saved. After the end it does nothing."""
        if not self.over:
            self._stream.cancel()

    def message(self) -> Message:
        """The reply as saved, after waiting for its end; raises the error that ended it."""
        with self._changed:
            self._changed.wait_for(lambda: self.over)
        if self._error is not None:
            raise self._error
        assert self._saved is not None
        return self._saved

    def _wait_for(self, seen: int) -> str | None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._deltas) > seen or self.over)
            return self._deltas[seen] if len(self._deltas) > seen else None

    def add(self, delta: str) -> None:
        """For the service: more text."""
        with self._changed:
            self._deltas.append(delta)
            self._changed.notify_all()

    def close(self, saved: Message | None, error: ThumbloopError | None) -> None:
        """For the service: the reply is saved, or ended in an error."""
        with self._changed:
            self._saved, self._error = saved, error
            self._changed.notify_all()
