"""Every route asks who is there and refuses in one shape; the documentation knows every route."""

import json
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from app.web import errors
from storage.db.ids import new_id
from storage.errors import BadSetting, Busy, NotFound
from tests.support import http_loop
from tests.support.live_server import LiveServer, get
from tests.support.rest import new_chat, refused, send


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


def test_a_name_that_is_not_known_is_refused_with_those_that_are(client: httpx.Client) -> None:
    chat_id = new_chat(client)
    reply = send(client, chat_id)["id"]
    vote = f"/api/v1/messages/{reply}/vote"
    http_loop.checked(client.put(vote, json={"label": True, "tags": ["clear"]}))
    message = refused(client.put(vote, json={"label": True, "taggs": []}), 422, "unknown_field", "taggs")
    assert "'taggs'" in message
    assert "known are label, tags, comment, correction." in message
    assert http_loop.checked(client.get(vote))["tags"] == ["clear"]

    chat = f"/api/v1/chats/{chat_id}"
    assert "consent, pinned" in refused(client.patch(chat, json={"consnt": True}), 422, "unknown_field")
    begun = {"sytem_prompt": "x", "consent": False}
    refused(client.post("/api/v1/chats", json=begun), 422, "unknown_field", "sytem_prompt")
    for method, path, body in (
        ("POST", f"{chat}/messages", {"content": "x", "parent": None}),
        ("POST", f"/api/v1/messages/{reply}/regenerate", {"temprature": 0}),
        ("POST", f"/api/v1/messages/{reply}/signals", {"kind": "copied", "x": 1}),
        ("POST", "/api/v1/training-runs", {"forced": True}),
        ("POST", "/api/v1/model-versions/v1/deploy", {"reason": "x"}),
        ("POST", "/api/v1/rollback", {"reason": "x"}),
        ("PUT", f"/api/v1/users/{new_id()}/quarantine", {"quarantined": True, "why": "x"}),
    ):
        refused(client.request(method, path, json=body), 422, "unknown_field", list(body)[-1])
    headers = {"Content-Type": "application/json"}
    refused(client.patch(chat, content=b'{"a\\ud800": 1}', headers=headers), 422)

    message = refused(client.get("/api/v1/export?labell=up"), 422, "unknown_parameter", "labell")
    assert "label, from_date" in message
    message = refused(client.post("/api/v1/import?min_ratng=4", content=b"{}"), 422, "unknown_parameter")
    assert "max_messages, min_rating" in message
    # Clients of OpenAI's API send many fields that mean nothing here.
    lenient = {"model": "deployed", "messages": [{"role": "user", "content": "Hi"}], "metadata": {}}
    http_loop.checked(client.post("/v1/chat/completions", json=lenient))


def test_a_query_parameter_counts_once(client: httpx.Client) -> None:
    twice = "/api/v1/export?label=up&label=down"
    assert "2 times" in refused(client.get(twice), 422, "given_twice", "label")
    refused(client.get("/api/v1/chats?limit=1&limit=2"), 422, "given_twice", "limit")
    both = client.get("/api/v1/export?signals=copied&signals=edited")
    assert both.status_code == 200, both.text


def test_what_is_wrong_is_said_once_and_of_the_right_thing(client: httpx.Client) -> None:
    chat_id = new_chat(client)
    vote = f"/api/v1/messages/{send(client, chat_id)['id']}/vote"
    message = refused(client.get("/api/v1/examples?min_messages=3&max_messages=2"), 422)
    assert message == "The query: min_messages is beyond max_messages, so nothing can match."
    message = refused(client.get("/api/v1/examples?cursor=zz"), 422, field="cursor")
    assert message.startswith('cursor cannot be "zz": give `next`')
    assert message == refused(client.get("/api/v1/chats?cursor=zz"), 422, field="cursor")
    message = refused(client.put(vote, json={"label": True, "tags": ["x" * 51]}), 422, field="tags.0")
    assert message == "tags.0 has 51 characters; the most is 50."
    message = refused(client.put(vote, json={"label": True, "tags": ["x"] * 21}), 422, field="tags")
    assert message == "tags has 21 items; the most is 20."
    message = refused(client.put(vote, json={"label": True, "comment": "a\0"}), 422, field="comment")
    assert message == "The comment holds a NUL character; remove it."
    message = refused(client.put(vote, content=b"{broken"), 422, "invalid_json")
    assert "Content-Type: application/json" in message
    headers = {"Content-Type": "application/json"}
    message = refused(client.put(vote, content=b"{broken", headers=headers), 422, "invalid_json")
    assert message.startswith("The body is not JSON: ")
    assert refused(client.put(vote, json=[1]), 422) == "The body must be a JSON object, not [1]."


def routes(client: httpx.Client) -> list[tuple[str, str]]:
    paths = http_loop.checked(client.get("/openapi.json"))["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


PUBLIC = ("/healthz", "/readyz")
ADMIN_ONLY = (
    "/api/v1/training-runs",
    "/api/v1/rollback",
    "/api/v1/canary",
    "/api/v1/deployments",
    "/api/v1/export",
    "/api/v1/export/count",
    "/api/v1/import",
    "/api/v1/stats",
    "/api/v1/sweeps",
    "/api/v1/evaluations",
    "/api/v1/examples",
    "/api/v1/webhook-deliveries",
    "/api/v1/votes",
    "/api/v1/audit",
    "/api/v1/settings",
    "/api/v1/tokens",
)
BODIES = {
    "/api/v1/chats/{chat_id}": {"title": "x"},
    "/api/v1/chats/{chat_id}/messages": {"content": "x"},
    "/api/v1/messages/{message_id}/vote": {"label": True},
    "/api/v1/chats/{chat_id}/vote": {"label": True},
    "/api/v1/model-versions/{version}/canary": {"share": 0.1},
    "/api/v1/messages/{message_id}/signals": {"kind": "copied"},
    "/api/v1/users": {"name": "x", "password": "a long password"},
    "/api/v1/users/{user_id}": {"disabled": True},
    "/api/v1/users/{user_id}/quarantine": {"quarantined": True},
    "/api/v1/tokens": {"name": "x"},
    "/api/v1/import/columns": {"name": "x", "columns": "prompt=q"},
    "/api/v1/settings/{name}": {"value": "1"},
    "/api/v1/votes/exclusion": {"vote_ids": [], "excluded": True},
    "/api/v1/votes/quarantine": {"vote_ids": [], "quarantined": True},
    "/api/v1/votes/{vote_id}/review": {"label": True},
    "/api/v1/votes/reviews": {"vote_ids": [], "label": True},
    "/v1/responses": {"model": "thumbloop", "input": "x"},
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
        with shared_server.visit() as unknown:
            answer = unknown.request(method, address, json=body)
        assert answer.status_code == 401, (method, path)
        error = answer.json()["error"]
        assert "thumbloop token create" in error["message"]
        assert answer.headers["www-authenticate"] == "Bearer"
        if path.startswith("/v1"):
            assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        if path.startswith(ADMIN_ONLY) or path.endswith(("/deploy", "/reject", "/canary")):
            real = path.replace("{run_id}", new_id()).replace("{version}", "v1")
            refused(stranger.request(method, real, json=body), 403, "admin_only")
        if "{" in path and path.startswith("/api/"):
            for no_id in ("1", "not-an-id", "v999999", new_id(), "%00"):
                named = path.split("{")[0] + no_id + path.split("}")[1]
                expected = (422, "invalid_input") if no_id == "%00" else (404, "not_found")
                refused(client.request(method, named, json=body), *expected)


def test_unknown_addresses_and_methods_are_errors_in_json(client: httpx.Client) -> None:
    for path in ("/api/v1/nothing", "/api/v2/chats", "/v1/embeddings", "/nothing", "/api/v1/chats/"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["code"] == "not_found"
    assert "Did you mean" not in client.get("/api/v1/nothing").text
    answer = client.put("/api/v1/chats")
    assert "does not take PUT; it takes POST, GET" in refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST, GET"


@pytest.mark.parametrize(
    ("missed", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/api/v1/chat/completions", "/v1/chat/completions"),
        ("/v1//models", "/v1/models"),
        ("/v1/chats", "/api/v1/chats"),
    ],
)
def test_a_wrong_base_address_is_told_the_right_one(client: httpx.Client, missed: str, meant: str) -> None:
    answer = client.get(missed)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].endswith(f"Did you mean {meant}?")


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


def test_health(shared_server: LiveServer) -> None:
    assert get(f"{shared_server.url}/healthz").json() == {"status": "alive"}
    assert get(f"{shared_server.url}/readyz").json() == {"status": "ready", "deployed": "v1"}
    for path in ("healthz", "readyz", "login", "docs", "openapi.json"):
        with shared_server.visit() as unknown:
            head = unknown.head(f"/{path}")
        assert (head.status_code, head.content) == (200, b""), path


def test_failures_of_the_server_have_the_same_shape() -> None:
    """Failures that no real server should meet: a bug, a database that is gone, a busy backend."""
    app = FastAPI()
    errors.install(app)
    failures: dict[str, Exception] = {
        "bug": RuntimeError("a secret"),
        "busy": Busy("Every place is taken.", retry_after=7),
        "down": OperationalError("SELECT 1", {}, Exception("connection refused")),
        "setting": BadSetting("THUMBLOOP_X is wrong.", field="x"),
        "half": NotFound("There is no \ud800."),  # half of a surrogate pair, which UTF-8 cannot encode
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
    assert "no \\ud800" in refused(client.get("/api/half"), 404)
