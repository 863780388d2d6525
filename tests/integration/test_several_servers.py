"""Several servers on one PostgreSQL database, and the one that SQLite allows."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from storage.db.database import Database
from storage.registry.artifacts import Artifacts
from tests.support.adapters import publish_adapter
from tests.support.http_loop import checked, vote
from tests.support.live_server import LiveServer, StartServer, read_events, wait_until
from tests.support.programs import run_command
from tests.support.proxy import nginx
from tests.support.rolling_load import RollingLoad

LEASE_SECONDS = 15  # storage.chats.chats.REPLY_LEASE


class Stream:
    """A reply that a client reads in a thread: a new one, or that of another stream."""

    def __init__(self, client: httpx.Client, other: "Stream | None" = None) -> None:
        self.client = client
        self.chat_id: str = other.chat_id if other else checked(client.post("/api/v1/chats", json={}))["id"]
        self.request: tuple[str, str, Any] = (
            ("GET", f"/api/v1/messages/{other.message_id}/events", None)
            if other
            else ("POST", f"/api/v1/chats/{self.chat_id}/messages", {"content": "Tell me everything."})
        )
        self.message_id = ""
        self.text = ""
        self.end: dict[str, Any] | None = None  # None if the connection broke
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        wait_until(lambda: len(self.text) > 50)

    def _read(self) -> None:
        method, path, body = self.request
        try:
            with self.client.stream(method, path, json=body) as response:
                for event, data in read_events(response):
                    if event == "message":
                        self.message_id = data["message_id"]
                    elif event == "delta":
                        self.text += data["text"]
                    else:
                        self.end = data
        except httpx.TransportError:
            pass

    def ended(self) -> dict[str, Any] | None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.end


@pytest.fixture
def start_endless(
    start_server: StartServer, endless_model: Path, empty_database_url: str
) -> Callable[[], LiveServer]:
    """Servers on one database, each with a data directory; their replies end only when they are cancelled."""
    endless = {"model": endless_model, "max_new_tokens": 100_000, "serving_cache_tokens": 131_072}
    return lambda: start_server(database_url=empty_database_url, **endless)


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_a_second_server_leaves_the_replies_of_the_first_alone_until_it_is_dead(
    start_endless: Callable[[], LiveServer],
) -> None:
    first = start_endless()
    with first.client() as client, first.client() as other:
        stream = Stream(client)
        second = start_endless()
        assert checked(other.post(f"/api/v1/messages/{stream.message_id}/cancel"))["cancelled"]
        done = stream.ended()
        assert done is not None
        assert (done["finish_reason"], done["content"]) == ("cancelled", stream.text)
        vote(other, stream.message_id, True)

        stream = Stream(client)
        path, read = f"/api/v1/chats/{stream.chat_id}", len(stream.text)
        with second.client() as elsewhere:

            def stored() -> dict[str, Any]:
                message: dict[str, Any] = checked(elsewhere.get(path))["messages"][-1]
                return message

            wait_until(lambda: len(stored()["content"]) >= read)
            assert stored()["state"] == "streaming"
            follower = Stream(elsewhere, stream)
            refused = elsewhere.post(f"{path}/messages", json={"content": "And?"})
            assert refused.json()["error"]["code"] == "reply_streaming"
            assert checked(elsewhere.post(f"/api/v1/messages/{stream.message_id}/cancel"))["cancelled"]
            done = stream.ended()
            assert done is not None
            assert (done["finish_reason"], done["content"]) == ("cancelled", stored()["content"])
            assert (follower.message_id, follower.ended()) == (stream.message_id, done)
            assert follower.text == done["content"]

            stream = Stream(client)
            path, read = f"/api/v1/chats/{stream.chat_id}", len(stream.text)
            wait_until(lambda: len(stored()["content"]) >= read)
            first.kill()
            assert stream.ended() is None
            wait_until(lambda: stored()["state"] != "streaming", 4 * LEASE_SECONDS)
            reply = stored()
            assert (reply["state"], reply["finish_reason"]) == ("stopped", "interrupted")
            assert len(reply["content"]) >= read
            vote(elsewhere, stream.message_id, False)
            again = f"/api/v1/messages/{stream.message_id}/regenerate?stream=false"
            assert checked(elsewhere.post(again, json={"max_new_tokens": 4}))["finish_reason"] == "length"


def test_a_server_that_is_asked_to_stop_lets_replies_end(
    start_server: StartServer, endless_model: Path
) -> None:
    endless = {"model": endless_model, "max_new_tokens": 100_000, "serving_cache_tokens": 131_072}
    server = start_server(**endless, drain_seconds=600)
    assert server.process is not None
    with server.client() as client:
        streams = [Stream(client), Stream(client)]
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: client.get("/readyz").status_code == 503)
        assert client.get("/readyz").json()["error"]["message"] == "This server is stopping."
        refused = client.post(f"/api/v1/chats/{streams[0].chat_id}/messages", json={"content": "And?"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        lengths = [len(stream.text) for stream in streams]
        wait_until(lambda: [len(stream.text) for stream in streams] > lengths)
        assert server.process.poll() is None

        checked(client.post(f"/api/v1/messages/{streams[0].message_id}/cancel"))
        done = streams[0].ended()
        assert done is not None
        assert (done["finish_reason"], done["content"]) == ("cancelled", streams[0].text)
        vote(client, streams[0].message_id, True)
        wait_until(lambda: len(streams[1].text) > lengths[1] + 100)
        server.process.send_signal(signal.SIGTERM)  # who cannot wait asks again
        assert server.process.wait(timeout=60) == -signal.SIGTERM
        done = streams[1].ended()
        assert done is not None
        assert (done["finish_reason"], done["content"]) == ("cancelled", streams[1].text)


def test_a_second_server_on_sqlite_is_refused(start_server: StartServer) -> None:
    first = start_server()
    again = LiveServer({"data_dir": first.settings.data_dir, "model": first.settings.model})
    second = run_command("serve", environment=again.environment)
    assert second.returncode == 2
    assert second.stderr.splitlines()[-1].startswith("thumbloop: Another `thumbloop serve` uses")
    assert "Traceback" not in second.stderr
    first.kill()
    with again:  # the kernel released the lock of the killed server
        assert again.stop() == 0


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_restarts_in_turn_lose_no_reply_and_no_vote(
    start_server: StartServer, talkative_model: Path, empty_database_url: str
) -> None:
    settings = {"model": talkative_model, "max_new_tokens": 400, "database_url": empty_database_url}
    servers = [start_server(**settings) for _ in range(2)]
    database = Database(empty_database_url)
    ports = [server.settings.port for server in servers]
    with RollingLoad(database, ports, streams=4, voters=4, votes_per_second=40) as load:
        load.wait_for(votes=20, replies=2)
        servers[0].stop()
        servers[0].start()
        load.wait_for(votes=20, replies=2)
        servers[1].kill()
        servers[1].start()
        load.wait_for(votes=20, replies=2)
    wait_until(lambda: not load.streaming(), 4 * LEASE_SECONDS)
    load.check()
    database.close()


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_behind_nginx_nobody_notices_restarts_and_deployments(
    start_server: StartServer, talkative_model: Path, empty_database_url: str, tmp_path: Path
) -> None:
    settings = {"model": talkative_model, "max_new_tokens": 100, "database_url": empty_database_url}
    settings |= {"data_dir": tmp_path / "data", "drain_seconds": 120}
    servers = [start_server(**settings) for _ in range(3)]
    database = Database(empty_database_url)
    artifacts = Artifacts(servers[0].settings.data_dir)
    versions = [publish_adapter(database, artifacts, talkative_model, seed=seed).name for seed in (1, 2)]
    with nginx(tmp_path / "nginx", [server.settings.port for server in servers]) as address:
        port = int(address.rpartition(":")[2])
        with RollingLoad(database, [port], streams=6, voters=6, votes_per_second=40) as load:
            load.wait_for(votes=20, replies=3)
            for server, version in zip(servers, [*versions, ""], strict=True):
                server.drain()
                server.start()
                if version:
                    with server.client() as admin:
                        checked(admin.post(f"/api/v1/model-versions/{version}/deploy"))
                load.wait_for(votes=20, replies=3)
    assert not load.streaming()
    counts = load.check()
    assert (counts["broken"], counts["error"], load.dropped) == (0, 0, 0)
    assert all(head.startswith(b"http/1.1 503") and b"retry-after:" in head for head in load.refused)
    assert {server.process.poll() for server in servers if server.process} == {None}
    database.close()
