"""Bad input over HTTP and on the command line: each is refused with a message, and nothing is lost."""

import json
import socket
from pathlib import Path

import httpx

from tests.support import http_loop
from tests.support.live_server import LiveServer, StartServer, at_once, get
from tests.support.programs import run_command
from tests.support.rest import refused


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
