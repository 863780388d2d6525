"""Several servers on one PostgreSQL database, and the one that SQLite allows."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from storage.db.database import Database
from tests.support.http_loop import checked, vote
from tests.support.live_server import LiveServer, StartServer, read_events, wait_until
from tests.support.programs import run_command
from tests.support.rolling_load import RollingLoad

LEASE_SECONDS = 15  # storage.chats.chats.REPLY_LEASE


class Stream:
    """A reply that a client reads in a thread."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.chat_id: str = checked(client.post("/api/v1/chats", json={}))["id"]
        self.message_id = ""
        self.text = ""
        self.end: dict[str, Any] | None = None  # None if the connection broke
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        wait_until(lambda: len(self.text) > 50)

    def _read(self) -> None:
        path = f"/api/v1/chats/{self.chat_id}/messages"
        try:
            with self.client.stream("POST", path, json={"content": "Tell me everything."}) as response:
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
            refused = elsewhere.post(f"{path}/messages", json={"content": "And?"})
            assert refused.json()["error"]["code"] == "reply_streaming"
            assert checked(elsewhere.post(f"/api/v1/messages/{stream.message_id}/cancel"))["cancelled"]
            done = stream.ended()
            assert done is not None
            assert (done["finish_reason"], done["content"]) == ("cancelled", stored()["content"])

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
