"""Every request has an id: in the answer's head, and in each line that is logged while it is answered.

A caller that sends an id of its own finds that one.
"""

import logging
import re
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from storage.db.ids import new_id

HEADER = "X-Request-ID"
GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}")  # anything else could forge lines of the log

_current: ContextVar[str] = ContextVar("request_id", default="")


def request_id() -> str:
    """Of the request that is being answered here; empty where none is."""
    return _current.get()


class RequestIds:
    """Gives each request its id. Stands before all else that answers or logs."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        current = given if GIVEN.fullmatch(given) else new_id()
        # Never taken back: each request is a task of its own, and whoever reports a failure of this one
        # does so after it has left here.
        _current.set(current)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = current
            await send(message)

        await self.app(scope, receive, send_with_id)


class RequestIdFilter(logging.Filter):
    """Adds `request` to each record: the id in brackets, or nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request = f" [{request_id()}]" if request_id() else ""
        return True
