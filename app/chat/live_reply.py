"""A reply to a chat's message while it is being generated."""

import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass

from app.serving.reply import Begin, Outcome, ReplyStream
from storage.db.tables import Message


@dataclass(eq=False)
class LiveReply(ReplyStream):
    """What the backend writes to and readers follow; the reply is saved before readers see its end.

    `begin` is that of the stream that the backend admitted. `on_piece` gets the seconds between two deltas.
    `on_end` gets the outcome, saves the reply, and then calls `publish`. When the last reader leaves before
    the end, the reply is cancelled: the client is gone.
    """

    begin: Begin
    chat_id: str
    user_message_id: str
    message_id: str
    model_version: str
    on_piece: Callable[[float], object]
    on_end: Callable[["LiveReply", Outcome], object]

    def __post_init__(self) -> None:
        super().__init__(self.begin)
        self.request = copy_context()  # log lines about the reply carry the id of its request
        self._saved: Message | None = None
        self._came_at = 0.0  # when the last delta arrived

    def message(self) -> Message:
        """The saved reply; waits for its end and raises the error that ended it."""
        _ = self.end  # waits, and raises
        assert self._saved is not None
        return self._saved

    def write(self, delta: str) -> None:
        super().write(delta)
        if delta:
            now, before = time.monotonic(), self._came_at
            self._came_at = now
            if before:
                self.on_piece(now - before)

    def close(self, outcome: Outcome) -> None:
        self.on_end(self, outcome)

    def publish(self, outcome: Outcome, saved: Message | None) -> None:
        """Let the readers see the end."""
        self._saved = saved
        super().close(outcome)

    def _abandon(self) -> None:
        self.cancel()
