"""Real requests for every route of a running server, and hypothesis strategies that mutate them.

A request is written to a socket as bytes: an HTTP library would refuse to send most of the mutations.
"""

import http.client
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from hypothesis import strategies as st
from sqlmodel import select

from storage.chats import chats
from storage.db.database import Database
from storage.db.tables import WebhookDelivery
from storage.people.tokens import create_token
from storage.people.users import ensure_user
from storage.registry import model_versions, training_runs
from storage.registry.artifacts import Artifacts
from storage.settings import Settings
from tests.support.adapters import publish_adapter
from tests.support.rows import add_reply

PAUSE_SECONDS = 0.1  # of a server that has begun its answer; an endless stream is left then
BROKEN_SECONDS = 0.02  # for an answer to a request that has no end
ANSWER_SECONDS = 60
MOST_READ = 1 << 20


@dataclass(frozen=True)
class Person:
    """Both ways to sign in."""

    user_id: str
    token: str
    cookie: str
    session_id: str


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, bytes], ...] = ()
    body: Any = None  # JSON, unless it is bytes
    well_framed: bool = True  # whether the server can find its end
    name: str = field(default="", compare=False)

    def with_header(self, name: str, value: bytes) -> "Request":
        others = tuple((known, old) for known, old in self.headers if known.lower() != name)
        return replace(self, headers=(*others, (name, value)))

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else b"" if self.body is None else as_json(self.body)

    def raw(self, port: int) -> bytes:
        query = "&".join(f"{name}={value}" if name else value for name, value in self.query)
        target = f"{self.path}?{query}" if query else self.path
        content = self.encoded()
        headers = {"host": f"127.0.0.1:{port}".encode(), "connection": b"close"}
        if content:
            headers["content-length"] = str(len(content)).encode()
            if not isinstance(self.body, bytes):
                headers["content-type"] = b"application/json"
        headers |= dict(self.headers)
        lines = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers.items())
        return f"{self.method} {target} HTTP/1.1\r\n".encode() + lines + b"\r\n" + content


@dataclass(frozen=True)
class Answer:
    status: int  # 0: the server closed the connection without an answer
    body: bytes


def exchange(port: int, request: Request) -> Answer:
    """Send a request and read what comes within a pause; an endless stream is left."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
        if not request.well_framed:
            connection.settimeout(BROKEN_SECONDS)
        body = b""
        response = HTTPResponse(connection, method=request.method)
        try:
            connection.sendall(request.raw(port))
            response.begin()
            connection.settimeout(PAUSE_SECONDS)
            while len(body) < MOST_READ and (more := response.read1(65536)):
                body += more
        except (OSError, http.client.HTTPException):
            pass  # it closed the connection, or makes a pause
        finally:
            response.close()
        return Answer(response.status if isinstance(response.status, int) else 0, body)


# ---- real requests ----------------------------------------------------------------------------------


def sign_up(database: Database, name: str, role: str = "user") -> Person:
    with database.write() as session:
        user = ensure_user(session, name, role)
        token = create_token(session, user.id, name="fuzz")[1]
        life = timedelta(days=1)
        row, cookie = create_token(session, user.id, name="browser", kind="session", ttl=life)
        return Person(user.id, token, cookie, row.id)


def real_requests(
    database: Database, settings: Settings, call: Callable[..., Any], number: int
) -> list[Request]:
    """One for each route, or several. `call` asks the server as the admin and returns the JSON answer."""
    admin = sign_up(database, "admin", "admin")
    other, leaver = sign_up(database, f"other {number}"), sign_up(database, f"leaver {number}")
    chat_id = call("POST", "/api/v1/chats", json={})["id"]
    sent = call("POST", f"/api/v1/chats/{chat_id}/messages?stream=false", json={"content": "Hello"})
    message_id, parent_id = sent["id"], sent["parent_id"]
    call("PUT", f"/api/v1/messages/{message_id}/vote", json={"label": True})
    deleted_id = call("POST", "/api/v1/chats", json={})["id"]
    with database.write() as session:
        chat = chats.create_chat(session, other.user_id)
        add_reply(session, chat, version_id=model_versions.deployed_version(session).id)
    with database.read() as session:
        active = training_runs.active_run(session)
        delivery = session.exec(select(WebhookDelivery)).first()
    if active is None:
        publish_adapter(database, Artifacts(settings.data_dir), Path(settings.model))
        with database.write() as session:
            active = training_runs.request_run(session, trigger="api")
            # No trainer is ever started for it.
            training_runs.claim_run(session, active.id, owner="fuzz", lease_seconds=10**6, max_attempts=1)
    release_id = call("POST", "/api/v1/guard/releases", json={"user_id": other.user_id})["id"]
    run_id, delivery_id = active.id, delivery.id if delivery else "1"
    requests: list[Request] = []

    def add(line: str, body: Any = None, *, who: Person | None = admin, **headers: str) -> None:
        method, target = line.split(" ", 1)
        path, _, query = target.partition("?")
        pairs = tuple(tuple(pair.split("=", 1)) for pair in query.split("&") if pair)
        page = not path.startswith(("/api/", "/v1/", "/metrics"))
        own = {name.replace("_", "-"): value.encode() for name, value in headers.items()}
        if who is not None and page:
            own["cookie"] = f"thumbloop_session={who.cookie}".encode()
        elif who is not None:
            own["authorization"] = f"Bearer {who.token}".encode()
        requests.append(Request(method, path, pairs, tuple(own.items()), body, name=line))  # type: ignore[arg-type]

    one_chat, one_message = f"/api/v1/chats/{chat_id}", f"/api/v1/messages/{message_id}"
    add("POST /api/v1/chats", {"title": "Rivers", "system_prompt": "Be brief.", "consent": True})
    add("GET /api/v1/chats?limit=2&search=river&cursor=" + chat_id)
    add(f"GET {one_chat}")
    add(f"GET {one_chat}/export?format=markdown")
    add(f"GET {one_chat}/export?format=json")
    changes = {"title": "New", "sampling": {"temperature": 0.5}, "consent": True, "pinned": True}
    add(f"PATCH {one_chat}", changes)
    add(f"DELETE /api/v1/chats/{deleted_id}")
    add(f"POST /api/v1/chats/{deleted_id}/restore")
    add(f"GET {one_chat}/messages?limit=2&cursor={message_id}")
    sampling = {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 3, "seed": 1, "stop": ["x"]}
    message = {"content": "Hi", "parent_id": message_id, **sampling}
    add(f"POST {one_chat}/messages?stream=true", message)
    add(f"POST {one_chat}/messages?stream=false", {"content": "Hi", "edits": parent_id})
    add(f"POST {one_message}/regenerate?stream=false", sampling)
    add(f"GET {one_message}/events")
    add(f"POST {one_message}/cancel")
    add("GET /api/v1/vote-tags")
    add(f"PUT {one_chat}/vote", {"label": False})
    add(f"GET {one_chat}/vote")
    add(f"DELETE {one_chat}/vote")
    add(f"GET {one_message}/vote")
    vote = {"label": False, "tags": ["wrong"], "comment": "No.", "correction": "Paris."}
    add(f"PUT {one_message}/vote", vote)
    add(f"PUT {one_message}/vote", vote, if_match='"1"')
    add(f"DELETE {one_message}/vote", if_none_match='"1"')
    add(f"POST {one_message}/signals", {"kind": "copied"})
    add("POST /api/v1/training-runs", {"force": True, "fresh": True})
    add("GET /api/v1/training-runs?limit=2")
    add(f"GET /api/v1/training-runs/{run_id}")
    add(f"GET /api/v1/training-runs/{run_id}/events")
    add(f"GET /api/v1/training-runs/{run_id}/log")
    add(f"POST /api/v1/training-runs/{run_id}/cancel")
    add("GET /api/v1/model-versions?limit=2")
    add("GET /api/v1/model-versions/v2")
    add("GET /api/v1/deployments?limit=2")
    add("POST /api/v1/model-versions/v2/deploy", {"why": "It is better."})
    add("POST /api/v1/model-versions/v2/reject", {"why": "It is worse."})
    add("POST /api/v1/rollback", {"why": "It is worse."})
    add("POST /api/v1/model-versions/v2/canary", {"share": 0.5, "why": "To try it."})
    add("POST /api/v1/canary/end", {"why": "Enough."})
    add("GET /api/v1/stats")
    add("GET /api/v1/sweeps?limit=2")
    add("GET /api/v1/evaluations?limit=2")
    filters = "label=down&from_date=2026-01-01&to_date=2030-01-01&model_version=v1&on_policy=true&tag=wrong"
    filters += "&has_comment=true&user=admin&min_messages=1&max_messages=9&min_tokens=1&max_tokens=99"
    filters += "&source=chat&consent=true&quarantined=false"
    add(f"GET /api/v1/examples?{filters}&limit=2")
    add(f"GET /api/v1/export?{filters}&format=csv&shape=kto-text&duplicates=drop")
    add("GET /api/v1/export?format=parquet&signals=copied&corrections=true&contradictions=drop")
    add(f"GET /api/v1/export/count?{filters}&shape=pairs&contradictions=majority")
    add(f"GET /api/v1/export/manifest?{filters}&format=jsonl&shape=pairs&snapshot=1")
    row = {"prompt": [{"role": "user", "content": "Hi"}], "completion": "Hello", "label": True}
    rated = json.dumps(row).encode() + b"\n"
    add("POST /api/v1/import?skip_bad=true", rated, content_type="application/x-ndjson")
    add("POST /api/v1/import?max_messages=2&format=kto", rated, idempotency_key=f"key-{number}")
    add("POST /api/v1/import", *multipart(rated))
    add("POST /api/v1/import/preview?columns=prompt%3Dprompt", rated, content_type="application/x-ndjson")
    add("POST /api/v1/import/columns", {"name": "surveys", "columns": "prompt=q,reply=a"})
    add("GET /api/v1/import/columns")
    add("DELETE /api/v1/import/columns/surveys")
    add("GET /api/v1/guard")
    add("GET /api/v1/guard/votes?limit=2")
    add(
        "POST /api/v1/guard/releases",
        {"user_id": other.user_id, "message_id": message_id, "reason": "Known."},
    )
    add(f"DELETE /api/v1/guard/releases/{release_id}")
    listed = call("GET", "/api/v1/votes?limit=1")["items"]
    voted = f"/api/v1/votes/{listed[0]['id'] if listed else message_id}"
    add("GET /api/v1/votes?limit=2&label=up&search=a&use=counts&reviewed=true&disagreed=true")
    add("GET /api/v1/votes/agreement")
    add("GET /api/v1/votes/queue?queue=contradictory&limit=2")
    add(f"GET {voted}")
    add(f"PUT {voted}/review", {"label": True, "note": "Right."})
    reviews = {"vote_ids": [one["id"] for one in listed], "label": False, "note": "Wrong."}
    add("PUT /api/v1/votes/reviews", reviews)
    exclusion = {"vote_ids": [one["id"] for one in listed], "excluded": True, "reason": "Off topic."}
    add("PUT /api/v1/votes/exclusion", exclusion)
    quarantine = {"vote_ids": reviews["vote_ids"], "user_ids": [other.user_id], "quarantined": False}
    add("PUT /api/v1/votes/quarantine", {**quarantine, "reason": "Known."})
    add("GET /api/v1/settings")
    add("PUT /api/v1/settings/temperature", {"value": "0.5"})
    add("DELETE /api/v1/settings/temperature")
    add("GET /api/v1/audit?limit=2&actor=gate&action=deploy&target=v2")
    add("GET /api/v1/me")
    add("GET /api/v1/me/sessions")
    add("DELETE /api/v1/me/sessions", who=leaver)
    add(f"DELETE /api/v1/me/sessions/{other.session_id}")
    add(f"GET /api/v1/users/{other.user_id}/sessions")
    add(f"DELETE /api/v1/users/{other.user_id}/sessions")
    add(f"DELETE /api/v1/users/{other.user_id}/sessions/{other.session_id}")
    add(f"PUT /api/v1/users/{other.user_id}/quarantine", {"quarantined": True, "reason": "Spam."})
    add(f"GET /api/v1/users/{other.user_id}/data")
    add(f"DELETE /api/v1/users/{other.user_id}/data")
    add("POST /api/v1/end-users/erase", {"user": "4711"})
    add("GET /api/v1/webhook-deliveries?limit=2")
    add(f"POST /api/v1/webhook-deliveries/{delivery_id}/retry")
    add("GET /v1/models")
    add("GET /v1/models/base")
    asked = {
        "model": "base",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 3,
        "user": "4711",
        "metadata": {"consent": "false"},
        "stop": ["x"],
        "temperature": 1,
    }
    add("POST /v1/chat/completions", {**asked, "stream": False})
    add("POST /v1/responses", {"model": "deployed", "input": "Hi", "max_output_tokens": 2, "stream": False})
    add("POST /v1/chat/completions", {**asked, "stream": True, "stream_options": {"include_usage": True}})
    add("GET /healthz")
    add("HEAD /healthz", who=None)
    add("GET /readyz", who=None)
    add("GET /metrics")
    for path in ("/docs", "/docs/swagger-ui.css", "/openapi.json", "/sessions", "/admin?token=tl_unknown"):
        add(f"GET {path}", who=None if "token" in path else admin)
    add("HEAD /login?next=/sessions", who=None)
    add("GET /login?next=/sessions", who=None)
    form = {"content_type": "application/x-www-form-urlencoded"}
    sign_in = urlencode({"name": "x" * 200, "password": "wrong", "next": "/"}).encode()  # costs no hash
    add("POST /password", urlencode({"current": "wrong", "new": "new password"}).encode(), **form)
    add("POST /login", sign_in, who=None, **form)
    add("GET /password-link?token=x", who=None)
    add("POST /password-link", urlencode({"token": "x", "new": "new password"}).encode(), who=None, **form)
    add("GET /login/with/x?next=/", who=None)
    add("GET /login/with/x/return?code=x&state=x", who=None)
    add("GET /login/with/x/leave", who=None)
    add("POST /login", urlencode({"name": "admin", "password": "wrong"}).encode(), who=None, **form)
    add("GET /admin/feedback?search=a&vote=x&before=y")
    add("GET /admin/feedback/themes")
    add("GET /api/v1/votes/themes")
    add("GET /admin/audit?action=deploy&actor=x&target=y&before=z")
    add("GET /api/v1/users")
    add("POST /api/v1/users", {"name": "x", "role": "user", "password": "short"})
    add(f"PATCH /api/v1/users/{other.user_id}", {"disabled": False})
    add(f"POST /api/v1/users/{other.user_id}/password-link")
    add("GET /api/v1/tokens")
    add("POST /api/v1/tokens", {"name": f"robot {number}", "role": "user", "days": 1})
    add("DELETE /api/v1/tokens/01JZ0000000000000000000000")
    add("GET /admin/files/admin.css")
    add("GET /admin/")
    add(f"GET /admin/training?before={run_id}")
    for page in (
        "training/now",
        "training/compare?run=1&run=2",
        "training/sweep",
        "versions",
        "data",
        "settings?search=beta",
    ):
        add(f"GET /admin/{page}")
    for page in (run_id, f"{run_id}/now"):
        add(f"GET /admin/training/{page}")
    add("GET /admin/versions/compare?left=v1&right=v1&vote=x")
    add(f"GET /admin/people?erase={other.user_id}")
    someone = "01JZ0000000000000000000000"  # who is not there
    for deed, fields in (
        ("training", {"force": "false", "fresh": "true"}),
        (f"training/{run_id}/cancel", {}),
        ("versions/v1/deploy", {"why": "Because."}),
        ("versions/v1/reject", {"why": "Because."}),
        ("versions/rollback", {"why": "Because."}),
        ("versions/v1/canary", {"share": "0.1", "why": "Because."}),
        ("versions/canary/end", {"why": "Because."}),
        ("versions/compare", {"left": "v1", "right": "v1", "prompt": "", "vote": ""}),
        ("people", {"name": "x", "role": "user", "password": "short"}),
        ("people/tokens", {"name": "robot", "role": "user", "days": "1"}),
        (f"people/tokens/{someone}/revoke", {}),
        ("people/releases", {"user_id": someone}),
        (f"people/releases/{someone}/end", {}),
        (f"people/{someone}", {"role": "user", "disabled": "true", "password": "a long password"}),
        (f"people/{someone}/sign-out", {}),
        (f"people/{someone}/erase", {}),
    ):
        add(f"POST /admin/{deed}", urlencode(fields).encode(), **form)
    for deed, fields in (
        ("exclusion", {"vote_id": "x", "excluded": "true", "reason": "Off topic."}),
        ("review", {"vote_id": "x", "label": "up", "note": "Right.", "correction": "No."}),
        ("reviews", {"vote_id": "x", "label": "up", "reason": "Right."}),
        ("quarantine", {"user_id": other.user_id, "quarantined": "true"}),
    ):
        add(f"POST /admin/feedback/{deed}?label=up", urlencode(fields).encode(), **form)
    add("POST /language", urlencode({"language": "de", "next": "/sessions"}).encode(), **form)
    add("POST /logout", who=leaver)
    add("POST /sessions", urlencode({"session_id": leaver.session_id}).encode(), who=leaver, **form)
    tab = f"tab{number}"
    for path in (
        "",
        "manifest.json",
        "icon.svg",
        "config",
        "theme.css",
        "assets/nothing.js",
        "gradio_api/info",
        "gradio_api/app_id",
    ):
        add(f"GET /{path}")
    add(f"GET /gradio_api/heartbeat/{tab}")
    add(f"GET /gradio_api/queue/data?session_hash={tab}")
    add("POST /gradio_api/cancel", {"session_hash": tab, "fn_index": 0, "event_id": "x"})
    add("POST /gradio_api/reset", {"event_id": "x"})
    for event in page_events(call("GET", "/config", cookies=admin.cookie)):
        add("POST /gradio_api/queue/join", {**event, "session_hash": tab})
    return requests


def page_events(config: dict[str, Any]) -> list[dict[str, Any]]:
    """What Gradio's page sends for each of its events, with the values that its components begin with."""
    values = {each["id"]: each["props"].get("value") for each in config["components"]}
    return [
        {
            "data": [values.get(component) for component in event["inputs"]],
            "fn_index": event["id"],
            "trigger_id": event["targets"][0][0] if event["targets"] else None,
            "event_data": None,
        }
        for event in config["dependencies"]
    ]


def multipart(content: bytes) -> tuple[bytes]:
    head = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    return (head + content + b"\r\n--cut--\r\n",)


# ---- mutations --------------------------------------------------------------------------------------

TEXTS = [
    *("%00", "%FF", "%ED%A0%80", "..", "%2e%2e%2f", "a" * 5000, "9" * 5000, "-1", "0", "", "%20"),
    *("%F0%9F%98%80", "%0D%0A", "%25", "null", "true", "1e999", "nan", "%u0000", "'\"--", "%7B%7D", "*"),
    *("2026-02-30", "9999-12-31", "0001-01-01T00:00:00%2B14:00", "v0", "v" + "9" * 30, "9" * 20, "[", "a b"),
]
HEADERS: list[tuple[str, list[bytes]]] = [
    (
        "content-type",
        [b"", b"text/plain", b"application/json; charset=utf-16", b"multipart/form-data", b"\xff\xfe"]
        + [b"multipart/form-data; boundary=" + end for end in (b"cut", b"", b"x" * 300, b'"')]
        + [b"application/x-www-form-urlencoded", b"application/json; charset=nonsense", b"*/*"],
    ),
    ("content-encoding", [b"gzip", b"nonsense"]),
    ("accept", [b"*/*;q=x", b"image/png", b"text/event-stream", b"\xff"]),
    ("accept-encoding", [b"gzip", b"br;q=nan", b"\xff"]),
    ("authorization", [b"Bearer ", b"Bearer \xff", b"Basic eA==", b"Bearer tl_" + b"x" * 5000, b"bearer"]),
    ("cookie", [b"thumbloop_session=\xff", b"=;;;=", b"thumbloop_session=" + b"x" * 5000]),
    ("if-match", [b'"99999999999999999999"', b"*", b'W/"1"', b"\xff", b'""', b"1"]),
    ("if-none-match", [b'"-1"', b"*", b'"1", "2"', b"\xff"]),
    ("idempotency-key", [b"", b"x" * 5000, b"\xff", b"key-1"]),
    ("range", [b"bytes=-1", b"bytes=0-0,5-9999999999", b"bytes=9-1", b"bytes=x"]),
    ("host", [b"", b"evil.example", b"[::1", b"127.0.0.1:99999999", b"\xff"]),
    ("origin", [b"null", b"http://evil.example", b"\xff", b"http://["]),
    ("sec-fetch-site", [b"cross-site", b"same-origin", b"\xff"]),
    ("x-forwarded-for", [b",,,", b"\xff", b"x" * 5000, b"::1%eth0"]),
    ("x-forwarded-proto", [b"https", b"ws", b"\xff"]),
    ("x-request-id", [b"\xff", b"x" * 5000, b""]),
    ("traceparent", [b"00-zz", b"\xff"]),
    ("accept-language", [b"\xff", b"x" * 5000]),
    ("upgrade", [b"websocket"]),
    ("expect", [b"100-continue"]),
    ("user-agent", [b"\xff\xfe", b""]),
]
FRAMING: list[tuple[str, bytes]] = [
    ("content-length", b"-1"),
    ("content-length", b"99999999"),
    ("content-length", b"9" * 30),
    ("content-length", b"1"),
    ("transfer-encoding", b"chunked"),
    ("transfer-encoding", b"gzip"),
]
DEEP = "[" * 100_000
RAW = {"@deep@": DEEP, "@digits@": "9" * 5000, "@closed@": "[" * 600 + "]" * 600, "@huge@": "1e400"}
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 2**31, 2**63, 10**300, 1e308, float("nan"), float("inf"), 0.1),
    *("", " ", "\0", "\ud800", "a\0b", "x" * 40_000, "‮", "é" * 500, "v1", "admin", "1"),
    *([], {}, [[]], [None] * 500, {"a": {"b": []}}, {"\ud800": 1}, {"": ""}, *RAW),
]
METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW", "CONNECT", "get"]


def as_json(value: Any) -> bytes:
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode()


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all parts of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, each in inner for found in nodes(each, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


def _path(draw: Any, request: Request) -> Request:
    parts = request.path.split("/")
    at = draw(st.integers(1, len(parts) - 1))
    parts[at : at + 1] = draw(st.sampled_from([[text] for text in TEXTS] + [[], [parts[at], "x"], ["", ""]]))
    return replace(request, path="/".join(parts) or "/")


def _query(draw: Any, request: Request) -> Request:
    names = [name for name, _ in request.query] or ["colour"]
    pair = (
        draw(st.sampled_from([*names, *names, "colour", "", "%00", "%ED%A0%80"])),
        draw(st.sampled_from(TEXTS)),
    )
    others = tuple(known for known in request.query if known[0] != pair[0] or draw(st.booleans()))
    return replace(request, query=(*others, pair))


def _header(draw: Any, request: Request) -> Request:
    name, values = draw(st.sampled_from(HEADERS))
    request = request.with_header(name, draw(st.sampled_from(values)))
    return request.with_header("connection", b"upgrade") if name == "upgrade" else request


def _framing(draw: Any, request: Request) -> Request:
    return replace(request.with_header(*draw(st.sampled_from(FRAMING))), well_framed=False)


def _method(draw: Any, request: Request) -> Request:
    return replace(request, method=draw(st.sampled_from(METHODS)))


def _json(draw: Any, request: Request) -> Request:
    if isinstance(request.body, bytes):
        return _bytes(draw, request)
    path = draw(st.sampled_from(nodes(request.body)))
    return replace(request, body=changed(request.body, path, draw(st.sampled_from(VALUES))))


def _bytes(draw: Any, request: Request) -> Request:
    content = request.encoded()
    at = draw(st.integers(0, len(content)))
    twice = content[: content.rfind(b"}")] + b"," + content[content.find(b"{") + 1 :]
    others = [content[:at], content[at:], twice, content * 2, content[:at] + b"\xff\0" + content[at:], b""]
    others += [b"\xef\xbb\xbf" + content, content.decode("latin-1").encode("utf-16"), DEEP.encode()]
    others += [b'{"a":' * 50_000, b"PK\x03\x04" + content, b"PAR1" + content + b"PAR1", b"\x1f\x8b" + content]
    other = draw(st.sampled_from(others))
    json_before = not isinstance(request.body, bytes)
    request = replace(request, body=other)
    return request.with_header("content-type", b"application/json") if json_before else request


MUTATIONS = (_path, _query, _header, _framing, _method, _json, _json, _bytes)


@st.composite
def mutated(draw: Any, request: Request) -> Request:
    """The request with one to three of its parts changed."""
    for mutate in draw(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=3)):
        request = mutate(draw, request)
    return request
