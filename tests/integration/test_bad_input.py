"""Bad input over HTTP and on the command line: each is refused with a message, and nothing is lost."""

import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from storage.db.database import Database
from tests.support import http_loop
from tests.support.fuzzed_requests import Request, exchange, page_events, sign_up
from tests.support.live_server import LiveServer, StartServer, at_once, get
from tests.support.programs import run_command
from tests.support.rest import refused

ADMIN_FORMS = (
    *("training", "training/x/cancel", "versions/rollback", "versions/v9/deploy", "versions/v9/canary"),
    *(
        "versions/v9/reject",
        "versions/canary/end",
        "versions/compare",
        "people",
        "people/tokens",
        "people/tokens/x/revoke",
        "people/x",
    ),
    *("people/x/sign-out", "people/x/erase", "people/releases", "people/releases/x/end"),
    "people/x/password-link",
    *("feedback/exclusion", "feedback/review", "feedback/reviews", "feedback/quarantine"),
)
EVENT_DATA = ("version", "chat", "message")  # what the scripts of the pages send with their events


def test_messages_that_must_be_refused(
    shared_server: LiveServer, client: httpx.Client, stranger: httpx.Client
) -> None:
    reply = http_loop.chat_once(client, "Hello")
    messages = f"/api/v1/chats/{reply['chat_id']}/messages"
    for empty in ("", "   \n"):
        assert "empty" in refused(client.post(messages, json={"content": empty}), 422)
    assert "32000" in refused(client.post(messages, json={"content": "x" * 100_000}), 413)
    assert "1024" in refused(client.post(messages, json={"content": "word " * 3000}), 422, "prompt_too_long")
    refused(stranger.post(messages, json={"content": "Hi"}), 403, "not_yours")
    refused(client.post("/api/v1/chats/..%2f..%2fetc/messages", json={"content": "Hi"}), 404)
    refused(get(f"{shared_server.url}/api/v1/chats", headers={"Authorization": "Bearer tl_x"}), 401)

    chat = http_loop.checked(client.get(f"/api/v1/chats/{reply['chat_id']}"))
    assert [message["content"] for message in chat["messages"]] == ["Hello", reply["content"]]
    assert http_loop.chat_once(client, "Still fine?", reply["chat_id"])["finish_reason"] in ("stop", "length")


@pytest.mark.both_engines
def test_text_that_no_database_stores_is_refused_by_name_wherever_it_is(
    start_server: StartServer, database_url: str
) -> None:
    server = start_server(database_url=database_url)
    question = {"role": "user", "content": "Hi"}
    with server.client("admin", "root") as client:
        reply = http_loop.chat_once(client, "Hello")
        messages, vote = (
            f"/api/v1/chats/{reply['chat_id']}/messages",
            f"/api/v1/messages/{reply['message_id']}/vote",
        )
        bodies: list[tuple[str, str, dict[str, Any], str]] = []
        for bad in ("\ud800", "a\x00b"):
            bodies += [
                ("POST", messages, {"content": "Hi", "parent_id": bad}, "parent_id"),
                ("POST", messages, {"content": "Hi", "edits": bad}, "edits"),
                ("POST", messages, {"content": "Hi", "stop": ["x", bad]}, "stop.1"),
                ("POST", messages, {"content": bad}, "content"),
                ("POST", messages, {"content": "Hi", bad: 1}, "*"),
                ("PUT", vote, {"label": True, "tags": [bad]}, "tags.0"),
                ("POST", "/api/v1/training-runs", {bad: {}}, "*"),
                ("POST", "/api/v1/model-versions/v1/deploy", {"why": bad}, "why"),
            ]
            for body, field in (
                ({"model": bad, "messages": [question]}, "model"),
                ({"model": "base", "messages": [question], "metadata": {"x": bad}}, "metadata.x"),
                ({"model": "base", "messages": [question], "other": [[bad]]}, "other[0][0]"),
                ({"model": "base", "messages": [{"role": "user", "content": bad}]}, "messages[0].content"),
            ):
                answer = _sent(client, "POST", "/v1/chat/completions", body)
                assert (answer.status_code, answer.json()["error"]["param"]) == (400, field), answer.text
        for method, path, body, field in bodies:
            refused(_sent(client, method, path, body), 422, "invalid_input", field)
        paths = (
            "model-versions/%00",
            "model-versions/v1%00",
            "chats/%00",
            "chats?cursor=%00",
            "export?x%00=1",
        )
        for path in paths:
            assert "NUL" in refused(client.get(f"/api/v1/{path}"), 422)
        for path in ("%00", "v1%00"):
            assert client.get(f"/v1/models/{path}").status_code == 400
        for path in ("/login?next=%00", "/docs/%00", "/admin?token=%00"):
            refused(client.get(path), 422)
    assert "Traceback" not in server.log.read_text()


def _sent(client: httpx.Client, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
    # json.dumps escapes half of a surrogate pair; httpx would try to encode it.
    return client.request(
        method, path, content=json.dumps(body), headers={"Content-Type": "application/json"}
    )


def test_what_breaks_off_or_does_not_fit_is_answered_and_leaves_no_traceback(
    start_server: StartServer,
) -> None:
    server = start_server()
    port = server.settings.port
    with closing(Database(server.settings.database_address)) as database:
        admin = sign_up(database, "admin", "admin")
    bearer = ("authorization", f"Bearer {admin.token}".encode())
    cookie = ("cookie", f"thumbloop_session={admin.cookie}".encode())
    cut = ("content-length", b"1000")
    multipart = ("content-type", b"multipart/form-data; boundary=cut")
    for headers in ((bearer, cut), (bearer, cut, multipart)):
        assert exchange(port, Request("POST", "/api/v1/import", (), headers, b"--cut", False)).status == 0
    # A body that no route reads, which a stream finds when it asks whether its client is there.
    unread = Request("GET", "/docs/swagger-ui.css", body=b"x" * 200_000)
    assert exchange(port, unread).status == 200
    upgrade = (("connection", b"upgrade"), ("upgrade", b"websocket"))
    assert exchange(port, Request("GET", "/healthz", (), upgrade, b"{}")).status == 200

    stream = Request("GET", "/gradio_api/queue/data", (("session_hash", "unknown"),), (cookie,))
    assert exchange(port, stream).status == 200
    events = page_events(json.loads(exchange(port, Request("GET", "/config", (), (cookie,))).body))
    assert events
    for number, event in enumerate(events):
        bad = "a\0b" if number % 2 else "\ud800"
        for data in ([], [None] * len(event["data"]), [{"x": [1]}] * len(event["data"]), [bad] * 9):
            for given in (None, 7, "version chat message", dict.fromkeys(EVENT_DATA, bad)):
                sent = {**event, "data": data, "event_data": given, "session_hash": "tab"}
                join = Request("POST", "/gradio_api/queue/join", (), (cookie,), sent)
                assert exchange(port, join).status == 200

    written = ("content-type", b"application/x-www-form-urlencoded")
    names = [
        "name",
        "role",
        "password",
        "days",
        "why",
        "share",
        "left",
        "right",
        "prompt",
        "vote",
        "user_id",
        "disabled",
        "force",
    ]
    for form in ADMIN_FORMS:
        for value in ("", "%00", "%ED%A0%80", "7", "v1", "%FF" * 9, "x" * 2000):
            body = "&".join(f"{name}={value}" for name in names).encode()
            answer = exchange(port, Request("POST", f"/admin/{form}", (), (cookie, written), body))
            assert answer.status in (200, 303, 404, 409, 422), (form, value, answer.status)
    with server.client() as client:
        assert http_loop.chat_once(client, "Still there?")["finish_reason"] in ("stop", "length")
    said = server.log.read_text()
    assert "Traceback" not in said, said[said.index("Traceback") :][:8000]


def test_a_broken_line_is_named_and_nothing_is_imported_unless_told_to_skip(client: httpx.Client) -> None:
    def ups() -> int:
        return int(http_loop.checked(client.get("/api/v1/stats"))["votes"]["up"])

    good, before = json.dumps({"prompt": "Hi", "completion": "Hello", "label": True}), ups()
    body = f"{good}\n{{broken\n".encode()
    assert "line 2" in refused(client.post("/api/v1/import", content=body), 422, "bad_line")
    assert ups() == before
    report = http_loop.checked(client.post("/api/v1/import", content=body, params={"skip_bad": True}))
    assert (report["accepted"], len(report["rejected"]), ups()) == (1, 1, before + 1)


def test_a_start_that_cannot_work_ends_with_one_clear_line(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases: list[tuple[dict[str, object], str]] = [
            ({"model": tmp_path / "no-such-model"}, "THUMBLOOP_MODEL"),
            ({"data_dir": tmp_path / "file" / "data"}, "THUMBLOOP_DATA_DIR"),
            ({"port": port}, str(port)),
            ({"host": "0.0.0.0"}, "THUMBLOOP_AUTH"),
            ({"schedule": "every day"}, "every day"),
        ]
        for settings, word in cases:
            server = LiveServer({"data_dir": tmp_path / "data", "model": tiny_model} | settings)
            ended = run_command("serve", environment=server.environment)
            assert ended.returncode == 2, ended.stderr
            assert word in ended.stderr, ended.stderr
            assert "Traceback" not in ended.stderr
            assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr


def test_more_chats_at_once_than_there_is_room_for_are_told_to_wait(
    start_server: StartServer, talkative_model: Path
) -> None:
    places = {"max_concurrent_replies": 1, "max_waiting_replies": 1}
    server = start_server(model=talkative_model, max_new_tokens=300, **places)
    clients = [server.client("user", f"person-{number}") for number in range(6)]
    chats = [http_loop.checked(client.post("/api/v1/chats", json={}))["id"] for client in clients]

    def send(number: int) -> httpx.Response:
        path = f"/api/v1/chats/{chats[number]}/messages"
        return clients[number].post(path, params={"stream": False}, json={"content": "Hi"})

    answers = at_once(6, send)
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            refused(answer, 503, "busy")
            assert int(answer.headers["Retry-After"]) > 0
