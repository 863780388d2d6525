"""A path prefix before every address, for a proxy that serves Thumbloop below a path of another site.

Routes, redirects and pages are written as if Thumbloop were at the root, and addresses of the chat page are
relative. The prefix is taken off here as a request comes in, and put on as an answer goes out.
"""

import re

from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Matches in tags alone: the quotes of texts are escaped.
ADDRESS = re.compile(rb'(\s(?:href|src|action|formaction|data-live)=")/(?!/)')


class RootPath:
    """Serves the application below `prefix`, such as /chat, whether or not the proxy has cut it off."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.prefix:
            await self.app(scope, receive, send)
            return
        if scope["path"] == self.prefix:
            await RedirectResponse(f"{self.prefix}/")(scope, receive, send)
            return
        if scope["path"].startswith(f"{self.prefix}/"):
            # In place, because the access log reads it.
            scope["path"] = scope["path"].removeprefix(self.prefix)
            scope["raw_path"] = scope["raw_path"].removeprefix(self.prefix.encode())
        await self.app(scope, receive, Outgoing(self.prefix, send))


class Outgoing:
    """Puts the prefix before the address of a redirect and before those in an HTML page."""

    def __init__(self, prefix: str, send: Send) -> None:
        self.prefix = prefix
        self.send = send
        self._start: Message | None = None  # of an HTML page, whose length is not known yet
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if headers.get("location", "").startswith("/"):
                headers["location"] = f"{self.prefix}{headers['location']}"
            if headers.get("content-type", "").startswith("text/html"):
                self._start = message
                return
        elif self._start is not None and message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            body = ADDRESS.sub(rb"\1%b/" % self.prefix.encode(), self._body)
            MutableHeaders(scope=self._start)["content-length"] = str(len(body))
            await self.send(self._start)
            message = {**message, "body": body}
        await self.send(message)
