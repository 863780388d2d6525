"""Bad input over HTTP and on the command line: each is refused with a message, and nothing is lost."""

import json
import socket
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from storage.db.ids import new_id
from tests.support import http_loop
from tests.support.endless_model import build_endless_model
from tests.support.live_server import LiveServer, get, read_events, wait_until
from tests.support.programs import run_command
from tests.support.rest import refused
from tests.support.tiny_model import build_tiny_model


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


def test_votes_that_must_be_refused(client: httpx.Client, stranger: httpx.Client) -> None:
    reply = http_loop.chat_once(client, "Hello")
    vote = f"/api/v1/messages/{reply['message_id']}/vote"
    question = http_loop.checked(client.get(f"/api/v1/chats/{reply['chat_id']}"))["messages"][0]
    for label in ("true", 1, None, [True], "up"):
        assert "must be true or false" in refused(client.put(vote, json={"label": label}), 422, field="label")
    up = {"label": True}
    refused(client.put(f"/api/v1/messages/{question['id']}/vote", json=up), 422, "not_a_reply")
    refused(stranger.put(vote, json=up), 403, "not_yours")
    refused(client.put(f"/api/v1/messages/{new_id()}/vote", json=up), 404)
    assert http_loop.checked(client.get(vote))["revision"] == 0


def test_a_reply_that_is_still_streaming_cannot_be_voted_on(
    start_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    server = start_server(model=build_endless_model(tmp_path / "endless"), max_new_tokens=100_000)
    client, other = server.client(), server.client()
    chat = http_loop.checked(client.post("/api/v1/chats", json={}))["id"]
    with client.stream("POST", f"/api/v1/chats/{chat}/messages", json={"content": "Go"}) as response:
        events = read_events(response)
        name, data = next(events)
        assert name == "message"
        vote = other.put(f"/api/v1/messages/{data['message_id']}/vote", json={"label": True})
        refused(vote, 409, "still_streaming")
        refused(other.post(f"/api/v1/chats/{chat}/messages", json={"content": "Too soon"}), 409)
        assert next(events)[0] == "delta"
    # Hanging up stops the reply; what it had is kept, and can be voted on.
    reply = wait_until(lambda: stopped_reply(other, chat), 30)
    http_loop.vote(other, reply["id"], False)


def stopped_reply(client: httpx.Client, chat_id: str) -> dict[str, Any] | None:
    message: dict[str, Any] = http_loop.checked(client.get(f"/api/v1/chats/{chat_id}"))["messages"][-1]
    return message if message["state"] == "stopped" else None


def test_a_broken_line_is_named_and_nothing_is_imported_unless_told_to_skip(client: httpx.Client) -> None:
    def ups() -> int:
        return int(http_loop.checked(client.get("/api/v1/stats"))["votes"]["up"])

    good, before = json.dumps({"prompt": "Hi", "completion": "Hello", "label": True}), ups()
    body = f"{good}\n{{broken\n".encode()
    assert "line 2" in refused(client.post("/api/v1/import", content=body), 422, "bad_line")
    assert ups() == before
    report = http_loop.checked(client.post("/api/v1/import", content=body, params={"skip_bad": True}))
    assert (report["accepted"], len(report["rejected"]), ups()) == (1, 1, before + 1)


def serve(tmp_path: Path, model: Path, settings: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """Run `thumbloop serve` with settings it cannot start with."""
    server = LiveServer({"data_dir": tmp_path / "data", "model": model} | settings)
    return run_command("serve", environment=server.environment)


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
            ended = serve(tmp_path, tiny_model, settings)
            assert ended.returncode == 2, ended.stderr
            assert word in ended.stderr, ended.stderr
            assert "Traceback" not in ended.stderr
            assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr


def test_more_chats_at_once_than_there_is_room_for_are_told_to_wait(
    start_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    server = start_server(
        model=build_tiny_model(tmp_path / "talkative", stops=False),
        max_concurrent_replies=1,
        max_waiting_replies=1,
        max_new_tokens=900,
    )
    start = threading.Barrier(6)

    def send(number: int) -> httpx.Response:
        client = server.client("user", f"person-{number}")
        chat = http_loop.checked(client.post("/api/v1/chats", json={}))["id"]
        start.wait()
        path = f"/api/v1/chats/{chat}/messages"
        return client.post(path, params={"stream": False}, json={"content": "Hi"})

    for number in range(6):
        server.token("user", f"person-{number}")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(send, range(6)))
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            refused(answer, 503, "busy")
            assert int(answer.headers["Retry-After"]) > 0
