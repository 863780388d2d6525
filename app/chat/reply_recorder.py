"""Receives the replies under way from the backend, keeps their leases, and saves each when it ends.

So a reply is stored whether or not a client reads it, and what a dead server had generated is not lost.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy.exc import OperationalError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_incrementing

from app.chat.live_reply import LiveReply
from app.serving.reply import Outcome, ReplyEnd
from app.telemetry.metrics import Metrics
from app.telemetry.tracing import Tracing
from storage.chats import chats
from storage.db.database import Database
from storage.db.ids import new_id
from storage.db.tables import Message
from storage.errors import Busy, Conflict, NotStored, ThumbloopError

log = logging.getLogger("thumbloop.serving")

SAVE_ATTEMPTS = 5
RENEW_SECONDS = 2.0  # between two renewals of the leases
THREADS = 32  # for saving; while the database is unavailable, each ended reply occupies one
STATES = {"stop": "complete", "length": "complete", "cancelled": "stopped"}


@dataclass
class ReplyRecorder:
    """`under_way` returns the current replies. `over(chat_id, message_id)` is called when one has ended,
    before its readers get the end, `delivered` with the saved reply afterwards.
    """

    database: Database
    metrics: Metrics
    under_way: Callable[[], Sequence[LiveReply]]
    over: Callable[[str, str], object]
    delivered: Callable[[Message], object]
    tracing: Tracing | None

    def __post_init__(self) -> None:
        self.server = f"{os.uname().nodename}-{new_id()}"
        self._stopped = threading.Event()
        self._renewing = threading.Thread(target=self._renew_leases, name="reply-leases", daemon=True)
        self._threads = ThreadPoolExecutor(THREADS, "reply-end")

    def start(self) -> None:
        """End the replies that a dead server left, then keep the leases of ours."""
        # Another server on this SQLite database would hold its lock (app/services.py).
        self._recover(all_servers=self.database.dialect == "sqlite")
        self._renewing.start()

    def record(self, reply: LiveReply, outcome: Outcome) -> None:
        """Save the reply in another thread, then let its readers see the end."""
        self._threads.submit(reply.request.run, self._end, reply, outcome)

    def stop(self, *, wait: bool) -> None:
        """Renew no more leases; with `wait`, no reply may be under way."""
        self._stopped.set()
        if self._renewing.is_alive():
            self._renewing.join()
        self._threads.shutdown(wait)

    def _end(self, reply: LiveReply, end: Outcome) -> None:
        saved: Message | None = None
        error = end if isinstance(end, ThumbloopError) else None
        try:
            saved = self._save(reply, end)
            if isinstance(end, ReplyEnd) and saved.finish_reason == chats.INTERRUPTED:
                error = Conflict(
                    "This server could not renew its lease on the reply, so another one ended it with "
                    "the text so far. Load the chat again.",
                    code="reply_interrupted",
                )
            elif isinstance(end, ReplyEnd):
                self.metrics.reply_ended(end)
                if self.tracing is not None:
                    self.tracing.reply_ended(reply.model_version, end)
        except Exception:
            log.exception("The reply %s could not be saved.", reply.message_id)
            error = ThumbloopError("The reply could not be saved; see the server's log.")
        finally:
            if error is not None:
                self.metrics.reply_failed(error)
            self.over(reply.chat_id, reply.message_id)
            reply.publish(error or end, saved)
        if error is None and saved is not None:
            self.delivered(saved)

    def _renew_leases(self) -> None:
        failed_at = -math.inf
        while not self._stopped.wait(RENEW_SECONDS):
            try:
                self._renew()
                # After an outage of the database, other servers need a moment to renew theirs.
                if time.monotonic() - failed_at > chats.REPLY_LEASE.total_seconds():
                    self._recover()
            except Exception as error:  # whatever the driver raises
                failed_at = time.monotonic()
                log.warning("The leases of the replies under way could not be renewed: %s", error)

    def _renew(self) -> None:
        """Keep the text so far, and cancel replies that another server ended or whose chat was deleted."""
        replies = self.under_way()
        if not replies:
            return
        texts = {reply.message_id: reply.parts for reply in replies}
        going_on = self.database.small_write(partial(chats.renew_replies, texts=texts))
        for reply in replies:
            if reply.message_id not in going_on:
                reply.cancel()

    def _recover(self, *, all_servers: bool = False) -> None:
        with self.database.read() as session:
            if not chats.interrupted_replies(session, all_servers=all_servers):
                return
        recover = partial(chats.recover_interrupted, all_servers=all_servers)
        if ended := self.database.small_write(recover):
            log.warning("%d replies were cut off with their server; their text so far is kept.", ended)

    def _save(self, reply: LiveReply, end: Outcome) -> Message:
        if isinstance(end, ThumbloopError):
            reasoning, content = reply.parts
            columns: dict[str, Any] = {"content": content, "state": "failed", "finish_reason": "error"}
            columns["reasoning"] = reasoning
        else:
            columns = {
                "content": end.content,
                "reasoning": end.reasoning,
                "state": STATES[end.finish_reason],
                "finish_reason": end.finish_reason,
                "token_ids": end.token_ids,
                "timings": {**end.timings, "prompt_tokens": end.prompt_tokens},
            }
        finish = partial(chats.finish_reply, message_id=reply.message_id, **columns)
        message: Message = _try_again(self.database.small_write, finish)
        return message


# The database may be locked by another process, restarting, or full for now.
_try_again = Retrying(
    retry=retry_if_exception_type((OperationalError, NotStored, Busy)),
    stop=stop_after_attempt(SAVE_ATTEMPTS),
    wait=wait_incrementing(start=1, increment=1),
    reraise=True,
)
