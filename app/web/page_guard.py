"""Guards Gradio: without a session no part of it can be reached.

Gradio's own login leaves routes open and trusts any `session_hash`. So every request to a page is
authenticated here first. A session_hash or event belongs to the person who first used it, routes that our
pages do not use are not found, and the page's inline scripts run by a nonce only.
"""

import base64
import hashlib
import json
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from urllib.parse import parse_qs

from anyio import to_thread
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.rate_limit import limit_per_minute
from app.web.auth import Identity, identity_from, resolve, set_cookie, start_session
from app.web.languages import LANGUAGES, Language, language_of
from app.web.sign_in import page_refusal
from storage.db.database import Database
from storage.errors import InvalidInput, NotAllowed, NotAuthenticated, TooOften
from storage.people.users import create_anonymous
from storage.settings import Settings

log = logging.getLogger(__name__)

READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/(assets|static|svelte)/.+"
    r"|/gradio_api/(info/?|app_id/?|queue/data|heartbeat/[^/]+)"
)
WRITTEN = re.compile(r"/gradio_api/(queue/join|cancel|reset/?)")
CANCEL = "/gradio_api/cancel"
RESETS = ("/gradio_api/reset", "/gradio_api/reset/")
MOST_OWNERS = 100_000
MOST_VISITORS = 120  # new ones a minute; housekeeping removes those who do nothing

# Gradio takes its own few words, and the page's `lang`, from the browser; they follow the choice instead.
SPEAKING = '<head><script>Object.defineProperty(navigator, "language", {{ get: () => "{tag}" }});</script>'

POLICY = (
    # Gradio turns the strings of its events into functions, hence 'unsafe-eval'.
    "default-src 'self'; script-src 'self' 'unsafe-eval' {scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)


class Owners:
    """The owner of each session_hash and event id: its first user. Drops the least recently used."""

    def __init__(self, most: int = MOST_OWNERS) -> None:
        self._users: OrderedDict[str, str] = OrderedDict()
        self._most = most

    def claim(self, key: str, user_id: str) -> bool:
        """Whether the key is this person's; an unused key becomes theirs."""
        owner = self._users.setdefault(key, user_id)
        self._users.move_to_end(key)
        if len(self._users) > self._most:
            self._users.popitem(last=False)
        return owner == user_id

    def owns(self, key: str, user_id: str) -> bool:
        return self._users.get(key) == user_id


class PageGuard:
    """The ASGI app in front of the mounted pages: requires a sign-in, or passes requests on."""

    def __init__(
        self, pages: ASGIApp, database: Database, settings: Settings, *, head: Iterable[str] = ()
    ) -> None:
        """`head` is the HTML that Gradio adds to each page's head; its inline scripts may run."""
        self.pages = pages
        self.database = database
        self.settings = settings
        self.script_hashes = {
            one.tag: [each for html in head for each in script_hashes(one.filled(html))]
            for one in LANGUAGES.values()
        }
        self.sessions = Owners()
        self.events = Owners()
        self.visitors = limit_per_minute("visitors", MOST_VISITORS, settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope["path"]
        if not _is_used(scope["method"], path):
            raise HTTPException(404)
        is_page = path == "/"
        secure = scope["scheme"] == "https"
        # Pages are for browsers: a bearer token opens the API only.
        cookies = HTTPConnection(scope).cookies
        identity = await to_thread.run_sync(lambda: resolve(self.database, {}, cookies, secure=secure))
        new_session: str | None = None
        if identity is None and is_page and self.settings.auth == "anonymous":
            identity, new_session = await to_thread.run_sync(self._welcome)
        target = path + (f"?{query.decode('latin-1')}" if (query := scope["query_string"]) else "")
        language = language_of(HTTPConnection(scope).headers, cookies, self.settings)
        refusal = self._refusal(identity, target, language, is_page=is_page)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        assert identity is not None
        scope.setdefault("state", {})["identity"] = identity
        if is_page:
            page = await self._page(scope, receive, language)
            if new_session is not None:
                set_cookie(page, new_session, self.settings, secure=secure)
            await page(scope, receive, send)
        else:
            await self._pass_on(identity, path, scope, receive, send)

    def _welcome(self) -> tuple[Identity, str]:
        if wait := self.visitors.take():
            raise TooOften(f"Too many new visitors; try again in {wait} s.", retry_after=wait)
        with self.database.write() as session:
            user = create_anonymous(session)
            return identity_from(user), start_session(session, user.id, self.settings)

    def _refusal(
        self, identity: Identity | None, target: str, language: Language, *, is_page: bool
    ) -> Response | None:
        if is_page:
            return page_refusal(identity, target, language, auth=self.settings.auth, admin=False)
        if identity is None:
            raise NotAuthenticated("Your session has ended; reload the page.")
        return None

    async def _page(self, scope: Scope, receive: Receive, language: Language) -> Response:
        """Gradio's page in this language, with a nonce on its own scripts, so that no other script runs."""
        scope = dict(scope)
        # A compressed page could not be changed.
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        start: Message = {}
        body = bytearray()

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                body.extend(message.get("body", b""))

        await self.pages(scope, receive, keep)
        nonce = secrets.token_urlsafe(16)
        # Data inside Gradio's scripts has every < escaped, so this matches script tags only, never text.
        html = language.filled(body.decode()).replace("<head>", SPEAKING.format(tag=language.tag), 1)
        # Edges of a phone's screen are the page's to avoid, and its keyboard makes the page smaller.
        html = html.replace("shrink-to-fit=no", "viewport-fit=cover, interactive-widget=resizes-content", 1)
        html = html.replace('lang="en"', f'lang="{language.tag}" dir="{language.direction}"', 1)
        html = html.replace("<script", f'<script nonce="{nonce}"')
        page = Response(html, start["status"])
        page.headers["Content-Type"] = MutableHeaders(raw=start["headers"]).get("content-type", "text/html")
        page.headers["Cache-Control"] = "no-store"
        scripts = " ".join([f"'nonce-{nonce}'", *self.script_hashes[language.tag]])
        page.headers["Content-Security-Policy"] = POLICY.format(scripts=scripts)
        return page

    async def _pass_on(
        self, identity: Identity, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if path.startswith("/gradio_api/heartbeat/"):
            self._claim(path.rsplit("/", 1)[1], identity)
        elif path == "/gradio_api/queue/data":
            query = parse_qs(scope["query_string"].decode("latin-1"))
            for session_hash in query.get("session_hash", [""]):
                self._claim(session_hash, identity)
        elif scope["method"] == "POST":
            body = await _read(receive)
            session_hash, event_id = _session_and_event(body)
            if path not in RESETS:
                self._claim(session_hash, identity)
            if path in (*RESETS, CANCEL) and not self.events.owns(event_id, identity.user_id):
                raise NotAllowed("This event is not yours to end.", code="not_your_session")
            receive = _replay(body, receive)
            if path == "/gradio_api/queue/join":
                send = self._remember_event(identity, send)
        await self._answered(scope, receive, send)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Gradio's answer, or as much of it as there is; raises 404 in place of its own 500."""
        begun = failed = False

        async def watching(message: Message) -> None:
            nonlocal begun, failed
            if message["type"] == "http.response.start":
                begun, failed = True, message["status"] >= 500
            if not failed:
                await send(message)

        try:
            await self.pages(scope, receive, watching)
        except Exception as error:
            log.warning(
                "Gradio cannot answer %s %s (%s).", scope["method"], scope["path"], type(error).__name__
            )
            if begun and not failed:  # such as a stream of events of a session that has ended
                await send({"type": "http.response.body", "body": b""})
                return
            failed = True
        if failed:
            raise HTTPException(404)

    def _claim(self, session_hash: str, identity: Identity) -> None:
        if not session_hash:
            raise InvalidInput("The session_hash is missing; reload the page.", field="session_hash")
        if not self.sessions.claim(session_hash, identity.user_id):
            raise NotAllowed(
                "This session belongs to somebody else; reload the page.", code="not_your_session"
            )

    def _remember_event(self, identity: Identity, send: Send) -> Send:
        answer = bytearray()

        async def watching(message: Message) -> None:
            answer.extend(message.get("body", b""))
            if message["type"] == "http.response.body" and not message.get("more_body"):
                event_id = _session_and_event(bytes(answer), strict=False)[1]
                if event_id:
                    self.events.claim(event_id, identity.user_id)
            await send(message)

        return watching


def _is_used(method: str, path: str) -> bool:
    if method in ("GET", "HEAD"):
        return READ.fullmatch(path) is not None
    return method == "POST" and WRITTEN.fullmatch(path) is not None


def _session_and_event(body: bytes, *, strict: bool = True) -> tuple[str, str]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        if strict:
            raise InvalidInput("The body is not JSON.", code="invalid_json") from error
        return "", ""
    if not isinstance(fields, dict):
        return "", ""
    found = [fields.get(name) for name in ("session_hash", "event_id")]
    session_hash, event_id = (value if isinstance(value, str) else "" for value in found)
    return session_hash, event_id


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body.extend(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def script_hashes(html: str) -> list[str]:
    """The hashes of a page's inline scripts, as content policy sources."""
    digests = (
        hashlib.sha256(text.encode()).digest()
        for text in re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    )
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
