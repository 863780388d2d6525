"""Sends a reply in progress over HTTP: as server-sent events, or as one answer at its end.

A stream takes no thread. Beginning a reply, and waiting for its end, use a separate pool of threads, so
that other requests never wait for them. A client that disconnects cancels its reply.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.chat.live_reply import LiveReply
from app.web.errors import error_body
from storage.chats.reasoning import Reasoning
from storage.db.tables import Message
from storage.errors import ThumbloopError
from storage.settings import Settings

T = TypeVar("T")
PING_SECONDS = 15.0  # proxies close a connection that is silent for a minute
SPARE_THREADS = 8  # for requests that are refused because the server is busy
PING = ": ping\n\n"
POLL_SECONDS = 0.5  # between two looks at a reply that another server writes
# The schema of each event, for the OpenAPI description; the data is JSON.
EVENT_SCHEMA = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["event", "data"],
}


def reply_threads(settings: Settings) -> CapacityLimiter:
    """The size of a thread pool that has enough threads for every running or waiting reply."""
    replies = settings.max_concurrent_replies + settings.max_waiting_replies
    return CapacityLimiter(2 * replies + SPARE_THREADS)  # Admission admits up to twice the limit


async def run_in_reply_thread(request: Request, call: Callable[[], T]) -> T:
    """Run the call in a thread. If the caller is cancelled, it returns at once and the call continues."""
    limiter = request.app.state.reply_threads
    return await to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=True)


class EventResponse(StreamingResponse):
    """Server-sent events."""

    def __init__(self, events: AsyncIterator[str], headers: dict[str, str] | None = None) -> None:
        # Otherwise nginx would buffer small chunks.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})}
        super().__init__(events, media_type="text/event-stream", headers=headers)


class ReplyResponse(EventResponse):
    """Server-sent events of a reply; the reply is cancelled if the client does not read to the end."""

    def __init__(self, live: LiveReply, events: AsyncIterator[str], headers: dict[str, str]) -> None:
        super().__init__(events, headers)
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._live.cancel()


def sse(event: str, data: dict[str, Any]) -> str:
    return f"event: {event}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


async def events(live: LiveReply) -> AsyncIterator[str]:
    """Server-sent events: `message`, any number of `reasoning` and `delta`, then `done` or `error`."""
    yield sse(
        "message",
        {
            "user_message_id": live.user_message_id,
            "message_id": live.message_id,
            "model_version": live.model_version,
        },
    )
    try:
        async for text in live.follow(PING_SECONDS):
            kind = "reasoning" if isinstance(text, Reasoning) else "delta"
            yield sse(kind, {"text": text}) if text is not None else PING
        message = live.message()
    except ThumbloopError as error:
        yield sse("error", {"message_id": live.message_id, "error": error_body(error)})
        return
    yield sse("done", _done(message, live.model_version))


async def stored_events(read: Callable[[], tuple[Message, str]]) -> AsyncIterator[str]:
    """The same of a reply that another server writes, or that has ended: what is stored of it, as it grows.

    `read` gives the stored reply and the name of its version, and may raise ThumbloopError.
    """
    told, spoke = {"reasoning": "", "delta": ""}, time.monotonic()
    begun = False
    while True:
        try:
            message, version = await to_thread.run_sync(read)
        except ThumbloopError as error:  # its chat was deleted meanwhile
            yield sse("error", {"error": error_body(error)})
            return
        if not begun:
            ids = {"user_message_id": message.parent_id, "message_id": message.id}
            yield sse("message", {**ids, "model_version": version})
            begun = True
        for kind, text in (("reasoning", message.reasoning or ""), ("delta", message.content)):
            if len(text) > len(told[kind]) and text.startswith(told[kind]):
                yield sse(kind, {"text": text[len(told[kind]) :]})
                told[kind], spoke = text, time.monotonic()
        if message.state == "failed":
            failed = ThumbloopError("The reply failed; ask for another one.", code="reply_failed")
            yield sse("error", {"message_id": message.id, "error": error_body(failed)})
            return
        if message.state != "streaming":
            yield sse("done", _done(message, version))
            return
        if time.monotonic() - spoke > PING_SECONDS:
            yield PING
            spoke = time.monotonic()
        await asyncio.sleep(POLL_SECONDS)


def _done(message: Message, version: str) -> dict[str, Any]:
    return {
        "message_id": message.id,
        "model_version": version,
        "finish_reason": message.finish_reason,
        "content": message.content,
        "reasoning": message.reasoning,
    }


async def finished(live: LiveReply, request: Request) -> Message:
    """Wait for the saved reply; raises the error that ended it. Cancels it if the client disconnects."""

    async def cancel_if_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        live.cancel()

    watching = asyncio.create_task(cancel_if_gone())
    try:
        return await run_in_reply_thread(request, live.message)
    finally:
        watching.cancel()
