"""Middleware for every request: security headers, origin check, body limit, counts, logs without secrets.

Plain ASGI, because Starlette's BaseHTTPMiddleware hides from a stream that its client disconnected.
"""

import logging
import re
from urllib.parse import urlsplit

from anyio import to_thread
from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry.metrics import Metrics
from app.web.auth import NO_TOKEN, bearer_token, is_loopback, resolve
from app.web.errors import error_response
from storage.db.database import Database
from storage.errors import NotAllowed, ThumbloopError, TooLarge
from storage.settings import Settings

UNSAFE_METHODS = ("POST", "PUT", "PATCH", "DELETE")
# A refused upload is read and discarded up to this size, so that its sender gets to see the answer.
MOST_DISCARDED = 32 * 1024 * 1024
IMPORT_PATHS = ("/api/v1/import", "/api/v1/import/preview")
MOST_OF_A_STRANGER = 64 * 1024

# 'self' alone: our own pages load nothing from elsewhere, and the API loads nothing at all.
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class SecurityHeaders:
    """Adds security headers to every answer; a page may set its own content policy."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", POLICY)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["X-Frame-Options"] = "DENY"
                headers["Referrer-Policy"] = "same-origin"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=()"
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class ResponseCounts:
    """Counts every answer by its status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = False

        async def counted(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                self.metrics.answered(scope["path"], message["status"])
            await send(message)

        try:
            await self.app(scope, receive, counted)
        except Exception:
            if not began:  # Starlette answers it outside all middleware
                self.metrics.answered(scope["path"], 500)
            raise


class HeadRequests:
    """Answers HEAD as GET without a body, on the pages that uptime monitors look at."""

    PATHS = ("/healthz", "/readyz", "/login", "/docs", "/openapi.json")

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"] not in self.PATHS:
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, send_head)


class OriginGuard:
    """Refuse requests that another web site makes a visitor's browser send (CSRF).

    A request with a bearer token is exempt: no browser adds one by itself. If anonymous chat is on, the
    Host must be this machine's own name, or any site could point its name here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.loopback_only = settings.auth == "anonymous"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            error = self._refusal(scope)
            if error is not None:
                await error_response(error, scope["path"])(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ThumbloopError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.loopback_only and not is_loopback(_host_name(host)):
            return NotAllowed(
                f"This server is for this machine only and answers to 127.0.0.1 and localhost, not to "
                f"{host!r}; behind a proxy, set THUMBLOOP_AUTH=accounts.",
                code="wrong_host",
            )
        if scope["method"] not in UNSAFE_METHODS or bearer_token(headers) is not None:
            return None
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site")
        if site is not None:
            # The browser's own judgement, which also holds behind proxies that change the Host.
            own = site in ("same-origin", "none")
        else:
            own = origin is None or origin.partition("://")[2] == host
        if own:
            return None
        return NotAllowed(
            f"A page of {origin or 'another site'} sent this request; only pages of {host} may.",
            code="cross_site",
        )


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class BodyLimit:
    """Refuse large bodies by their announced length, or once they exceed the limit.

    Strangers get to send MOST_OF_A_STRANGER bytes only: FastAPI reads a body before it asks who sends it.
    """

    def __init__(self, app: ASGIApp, settings: Settings, database: Database) -> None:
        self.app = app
        self.database = database
        self.largest_import = settings.max_import_mb * 1024 * 1024
        # A character takes up to 12 bytes as JSON escapes; the rest of the body, and complete
        # conversations in the OpenAI format, need more room than one message.
        self.largest_body = max(4 * 1024 * 1024, 16 * settings.max_message_chars)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.largest_import if scope["path"] in IMPORT_PATHS else self.largest_body
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            error = TooLarge(f"The body has {announced} bytes; the most is {limit}.")
            await _discard(receive)
            await error_response(error, scope["path"])(scope, receive, send)
            return
        received = 0
        known = begun = False

        async def watching(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        async def counted() -> Message:
            nonlocal received, known
            message = await receive()
            if begun:  # a stream asks whether its client is still there; nobody keeps the body
                return message
            received += len(message.get("body", b""))
            if received > limit:
                if message.get("more_body"):
                    await _discard(receive)
                # FastAPI passes its own exception on, wherever the body is read.
                raise HTTPException(413, f"The body has more than {limit} bytes, which is the most.")
            if received > MOST_OF_A_STRANGER and not known:
                known = await to_thread.run_sync(self._knows_sender, scope)
                if not known and not begun:
                    if message.get("more_body"):
                        await _discard(receive)
                    raise HTTPException(401, NO_TOKEN, headers={"WWW-Authenticate": "Bearer"})
            return message

        await self.app(scope, counted, watching)

    def _knows_sender(self, scope: Scope) -> bool:
        request = HTTPConnection(scope)
        secure = scope["scheme"] == "https"
        return any(
            resolve(self.database, request.headers, request.cookies, secure=secure, admin=admin)
            for admin in (False, True)
        )


async def _discard(receive: Receive) -> None:
    discarded = 0
    while discarded < MOST_DISCARDED:
        message = await receive()
        discarded += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return


class SecretsOut(logging.Filter):
    """Removes tokens from log lines: uvicorn logs complete URLs, such as the admin link's."""

    SECRET = re.compile(r"\btl_[A-Za-z0-9_-]{16,}")

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "tl_" in text and isinstance(record.args, tuple):
            record.args = tuple(self._hide(part) for part in record.args)
            record.msg = self._hide(record.msg)
        return True

    def _hide(self, part: object) -> object:
        return self.SECRET.sub("tl_…", part) if isinstance(part, str) else part


def keep_secrets_out_of_logs() -> None:
    for name in ("uvicorn.access", "uvicorn.error"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, SecretsOut) for each in logger.filters):
            logger.addFilter(SecretsOut())
