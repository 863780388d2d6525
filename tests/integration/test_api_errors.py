"""Every route asks who is there and refuses in one shape; the documentation knows every route."""

import json
from collections.abc import Iterator

import httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from app.api import errors
from storage.errors import BadSetting, Busy
from storage.ids import new_id
from tests.integration import loop
from tests.integration.rest import new_chat, refused, send
from tests.live_server import LiveServer


def test_text_that_cannot_be_stored_is_refused(client: httpx.Client) -> None:
    chat_id = new_chat(client)
    path = f"/api/v1/chats/{chat_id}/messages"
    headers = {"Content-Type": "application/json"}
    for text in ("\\u0000", "a\\ud800b"):
        body = f'{{"content": "{text}"}}'.encode()
        refused(client.post(path, content=body, headers=headers), 422, field="content")
        body = f'{{"title": "{text}"}}'.encode()
        refused(client.post("/api/v1/chats", content=body, headers=headers), 422, field="title")
    assert send(client, chat_id, "Ein 🙂 und العربية")["content"] is not None
    for broken in (b'{"content": "\xff"}', b"[" * 100_000, b'"text"', b""):
        assert client.post(path, content=broken, headers=headers).status_code in (400, 422)


def routes(client: httpx.Client) -> list[tuple[str, str]]:
    paths = loop.checked(client.get("/openapi.json"))["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


PUBLIC = ("/healthz", "/readyz")
ADMIN_ONLY = (
    "/api/v1/training-runs",
    "/api/v1/rollback",
    "/api/v1/export",
    "/api/v1/import",
    "/api/v1/stats",
    "/api/v1/examples",
    "/api/v1/webhook-deliveries",
)
BODIES = {
    "/api/v1/chats/{chat_id}": {"title": "x"},
    "/api/v1/chats/{chat_id}/messages": {"content": "x"},
    "/api/v1/messages/{message_id}/vote": {"label": True},
    "/api/v1/messages/{message_id}/signals": {"kind": "copied"},
    "/api/v1/users/{user_id}/quarantine": {"quarantined": True},
    "/v1/chat/completions": {"model": "thumbloop", "messages": [{"role": "user", "content": "x"}]},
}


def test_every_route_asks_who_is_there_and_answers_errors_in_one_shape(
    shared_server: LiveServer, client: httpx.Client, stranger: httpx.Client
) -> None:
    found = routes(client)
    assert len(found) > 25
    for method, path in found:
        if path in PUBLIC:
            continue
        address = path.replace("{", "").replace("}", "")  # ids that are none
        body = BODIES.get(path)
        answer = httpx.request(method, f"{shared_server.url}{address}", json=body)
        assert answer.status_code == 401, (method, path)
        error = answer.json()["error"]
        assert "thumbloop token create" in error["message"]
        assert answer.headers["www-authenticate"] == "Bearer"
        if path.startswith("/v1"):
            assert error["type"] == "authentication_error"
        if path.startswith(ADMIN_ONLY) or path.endswith("/deploy"):
            real = path.replace("{run_id}", new_id()).replace("{version}", "v1")
            refused(stranger.request(method, real, json=body), 403, "admin_only")
        if "{" in path and path.startswith("/api/"):
            for no_id in ("1", "not-an-id", "v999999", "%00", new_id()):
                named = path.split("{")[0] + no_id + path.split("}")[1]
                refused(client.request(method, named, json=body), 404, "not_found")


def test_unknown_addresses_and_methods_are_errors_in_json(client: httpx.Client) -> None:
    for path in ("/api/v1/nothing", "/api/v2/chats", "/v1/embeddings", "/nothing", "/api/v1/chats/"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["code"] == "not_found"
    answer = client.put("/api/v1/chats")
    assert "does not take PUT; it takes POST, GET" in refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST, GET"


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client: httpx.Client) -> None:
    path = f"/api/v1/chats/{new_chat(client)}/messages"
    body = json.dumps({"content": "x" * 5_000_000}).encode()
    headers = {"Content-Type": "application/json"}
    refused(client.post(path, content=body, headers=headers), 413, "too_large")

    def in_pieces() -> Iterator[bytes]:  # no Content-Length
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    refused(client.post(path, content=in_pieces(), headers=headers), 413, "too_large")
    # A message that fits into the body limit but not into the message limit.
    refused(client.post(path, json={"content": "x" * 100_000}), 413, "too_large", field="content")


def test_the_documentation_names_every_route_and_needs_no_network(
    shared_server: LiveServer, client: httpx.Client
) -> None:
    page = httpx.get(f"{shared_server.url}/docs")
    assert page.status_code == 200
    for method, path in routes(client):
        assert f"<b>{method}</b> <code>{path}</code>" in page.text
    assert "<script" not in page.text
    assert "https://" not in page.text


def test_health(shared_server: LiveServer) -> None:
    assert httpx.get(f"{shared_server.url}/healthz").json() == {"status": "alive"}
    assert httpx.get(f"{shared_server.url}/readyz").json() == {"status": "ready", "deployed": "v1"}


def test_failures_of_the_server_have_the_same_shape() -> None:
    """Failures that no real server should meet: a bug, a database that is gone, a busy backend."""
    app = FastAPI()
    errors.install(app)
    failures: dict[str, Exception] = {
        "bug": RuntimeError("a secret"),
        "busy": Busy("Every place is taken.", retry_after=7),
        "down": OperationalError("SELECT 1", {}, Exception("connection refused")),
        "setting": BadSetting("THUMBLOOP_X is wrong.", field="x"),
    }

    @app.get("/api/{kind}")
    @app.get("/v1/{kind}")
    def fail(kind: str) -> None:
        raise failures[kind]

    client = TestClient(app, raise_server_exceptions=False)
    bug = refused(client.get("/api/bug"), 500, "internal")
    assert "secret" not in bug
    assert client.get("/v1/bug").json()["error"]["type"] == "server_error"
    refused(client.get("/api/busy"), 503, "busy")
    assert client.get("/v1/busy").headers["retry-after"] == "7"
    assert "connection" not in refused(client.get("/api/down"), 503, "database_unavailable")
    assert int(client.get("/api/down").headers["retry-after"]) > 0
    refused(client.get("/api/setting"), 500, "bad_setting", field="x")
