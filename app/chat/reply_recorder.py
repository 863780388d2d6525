"""Receives the replies under way from the backend and saves each when it ends.

So a reply is stored whether or not a client reads it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from sqlalchemy.exc import OperationalError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_incrementing

from app.chat.live_reply import LiveReply
from app.serving.reply import Item, ReplyEnd
from app.telemetry.metrics import Metrics
from app.telemetry.tracing import Tracing
from storage.chats import chats
from storage.db.database import Database
from storage.db.tables import Message
from storage.errors import Busy, NotStored, ThumbloopError

log = logging.getLogger("thumbloop.serving")

SAVE_ATTEMPTS = 5
CHECK_SECONDS = 1.0  # between two checks that the chats of the replies still exist
THREADS = 32  # for saving; while the database is unavailable, each ended reply occupies one
STATES = {"stop": "complete", "length": "complete", "cancelled": "stopped"}


class ReplyRecorder:
    """`under_way` returns the current replies. `over(chat_id, message_id)` is called when one has ended,
    before its readers get the end.
    """

    def __init__(
        self,
        database: Database,
        metrics: Metrics,
        under_way: Callable[[], Sequence[LiveReply]],
        over: Callable[[str, str], object],
        tracing: Tracing | None,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._under_way = under_way
        self._over = over
        self._tracing = tracing
        self._check_at = 0.0
        self._threads = ThreadPoolExecutor(THREADS, "reply-end")

    def listener(self, reply: LiveReply) -> Callable[[Item], object]:
        """A listener for the reply's stream. Its log lines carry the id of the current request."""
        return partial(self._hear, reply, copy_context())

    def close(self) -> None:
        """Call it once no reply is under way."""
        self._threads.shutdown()

    def _hear(self, reply: LiveReply, context: Context, item: Item) -> None:
        """In the backend's thread: pass text on to the readers; hand slow work to another thread."""
        if not isinstance(item, str):
            self._threads.submit(context.run, self._end, reply, item)
            return
        since = reply.add(item)
        if since is not None:
            self._metrics.piece(since)
        if time.monotonic() >= self._check_at:
            self._check_at = time.monotonic() + CHECK_SECONDS
            self._threads.submit(self._cancel_unwanted)

    def _end(self, reply: LiveReply, end: ReplyEnd | ThumbloopError) -> None:
        """Save the reply, then let its readers see the end."""
        saved: Message | None = None
        error: ThumbloopError | None = None
        try:
            if isinstance(end, ThumbloopError):
                error = end
                self._save(
                    reply,
                    content=reply.text,
                    state="failed",
                    finish_reason="error",
                    token_ids=None,
                    timings=None,
                )
            else:
                saved = self._save(
                    reply,
                    content=end.content,
                    state=STATES[end.finish_reason],
                    finish_reason=end.finish_reason,
                    token_ids=end.token_ids,
                    timings={**end.timings, "prompt_tokens": end.prompt_tokens},
                )
                self._metrics.reply_ended(end)
                if self._tracing is not None:
                    self._tracing.reply_ended(reply.model_version, end)
        except Exception:
            log.exception("The reply %s could not be saved.", reply.message_id)
            error = ThumbloopError("The reply could not be saved; see the server's log.")
        finally:
            if error is not None:
                self._metrics.reply_failed(error)
            self._over(reply.chat_id, reply.message_id)
            reply.close(saved, error)

    def _cancel_unwanted(self) -> None:
        """Cancel replies whose chat was deleted or erased, perhaps by another process."""
        replies = self._under_way()
        try:
            with self._database.read() as session:
                there = chats.still_there(session, [reply.chat_id for reply in replies])
        except (OperationalError, NotStored):  # as in _try_again
            return
        for reply in replies:
            if reply.chat_id not in there:
                reply.cancel()

    def _save(self, reply: LiveReply, **columns: Any) -> Message:
        finish = partial(chats.finish_reply, message_id=reply.message_id, **columns)
        message: Message = _try_again(self._database.small_write, finish)
        return message


# The database may be locked by another process, restarting, or full for now.
_try_again = Retrying(
    retry=retry_if_exception_type((OperationalError, NotStored, Busy)),
    stop=stop_after_attempt(SAVE_ATTEMPTS),
    wait=wait_incrementing(start=1, increment=1),
    reraise=True,
)
