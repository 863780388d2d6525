"""Gives every request an id, in the answer's headers and in each log line written for the request.

A caller's own id, sent in the same header, is used instead.
"""

import logging
import re
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from storage.db.ids import new_id

HEADER = "X-Request-ID"
GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}")  # anything else could forge log lines

_current: ContextVar[str] = ContextVar("request_id", default="")


def request_id() -> str:
    """The id of the current request; empty outside a request."""
    return _current.get()


class RequestIds:
    """Middleware that gives each request its id. It must be the outermost one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        current = given if GIVEN.fullmatch(given) else new_id()
        # Never reset: each request is a task of its own, and a failure is logged after this function has
        # returned.
        _current.set(current)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = current
            await send(message)

        await self.app(scope, receive, send_with_id)


class RequestIdFilter(logging.Filter):
    """Adds `request` to each log record: the id in brackets, or an empty text."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request = f" [{request_id()}]" if request_id() else ""
        return True
