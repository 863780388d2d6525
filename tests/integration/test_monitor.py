"""Versions that people judge over HTTP: rolled back, kept, ended, promoted by their votes, and once."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlmodel import select

from storage.db.database import Database, open_database
from storage.db.tables import Deployment
from storage.registry import model_versions
from storage.registry.artifacts import Artifacts
from tests.support import http_loop
from tests.support.adapters import publish_adapter
from tests.support.live_server import LiveServer, StartServer, wait_until
from tests.support.rest import new_chat, send
from tests.support.rows import add_votes
from tests.support.webhook_receiver import Receiver, receiving

SECRET = f"whsec_{base64.b64encode(b'k' * 32).decode()}"
NEEDED = 8  # votes on a new version, so that a test is short
SHORT = {"max_new_tokens": 2}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def start(
    start_server: StartServer, tiny_model: Path, empty_database_url: str, receiver: Receiver
) -> Callable[[], LiveServer]:
    """Servers on one database and one data directory, with v2 to deploy."""

    def begin() -> LiveServer:
        server = start_server(
            database_url=empty_database_url,
            monitor_min_votes=NEEDED,
            webhook_url=receiver.url,
            webhook_secret=SECRET,
        )
        with closing(open_database(server.settings)) as database:
            publish_adapter(database, Artifacts(server.settings.data_dir), tiny_model)
        return server

    return begin


def rate(client: httpx.Client, number: int, up: bool) -> None:
    """Chats of one reply, each rated."""
    for _ in range(number):
        answer = send(client, new_chat(client), **SHORT)
        http_loop.vote(client, answer["id"], up)


def version(client: httpx.Client, name: str) -> dict[str, Any]:
    found: dict[str, Any] = http_loop.checked(client.get(f"/api/v1/model-versions/{name}"))
    return found


def judgements(client: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http_loop.checked(client.get("/api/v1/stats"))["judgements"]
    return found


def told(receiver: Receiver) -> list[dict[str, Any]]:
    """What the webhook got that is no vote."""
    bodies = [json.loads(each.body) for each in receiver.received]
    return [body for body in bodies if not body["type"].startswith("vote.")]


@pytest.mark.both_engines
def test_a_worse_version_is_rolled_back_and_a_better_one_stays(
    start: Callable[[], LiveServer], receiver: Receiver, tiny_model: Path
) -> None:
    server = start()
    with server.client() as admin:
        rate(admin, NEEDED, True)
        assert judgements(admin) == []
        http_loop.checked(admin.post("/api/v1/model-versions/v2/deploy"))
        rate(admin, NEEDED - 1, False)
        (found,) = judgements(admin)
        assert (found["version"], found["compared_with"], found["outcome"]) == ("v2", "v1", "undecided")
        assert (found["up"], found["votes"], found["up_compared"], found["people"]) == (0, 7, 8, 1)
        assert found["p_worse"] > 0.99
        rate(admin, 1, False)
        wait_until(lambda: version(admin, "v1")["deployed"])
        refused = version(admin, "v2")
        assert refused["state"] == "candidate"
        assert refused["reason"].startswith("Rolled back: v2: 0 of 8 liked (0 %), v1: 8 of 8 liked (100 %).")
        assert send(admin, new_chat(admin), **SHORT)["model_version"] == "v1"
        (event,) = wait_until(lambda: told(receiver))
        assert event["type"] == "version.rolled_back"
        assert (event["data"]["version"], event["data"]["deployed"]) == ("v2", "v1")
        assert refused["reason"].endswith(event["data"]["why"])
        assert judgements(admin) == []

        with closing(open_database(server.settings)) as database:
            publish_adapter(database, Artifacts(server.settings.data_dir), tiny_model, seed=2)
        http_loop.checked(admin.post("/api/v1/model-versions/v3/deploy"))
        rate(admin, NEEDED, True)
        (found,) = judgements(admin)
        assert (found["version"], found["votes"], found["outcome"]) == ("v3", NEEDED, "undecided")
        rate(admin, 30, True)
        assert version(admin, "v3")["deployed"]
        assert len(told(receiver)) == 1


def rate_sides(server: LiveServer, client: httpx.Client, *, better: str) -> None:
    """Votes on both sides of the canary: all but one straight into the database, which is quicker.

    The last one is what the monitor sees.
    """
    with closing(open_database(server.settings)) as database, database.write() as session:
        canary = model_versions.open_canary(session)
        assert canary is not None
        add_votes(session, "v2", [better == "v2"] * NEEDED, canary_id=canary.id)
        add_votes(session, "v1", [better == "v1"] * NEEDED)
    answer = send(client, new_chat(client), **SHORT)
    http_loop.vote(client, answer["id"], answer["model_version"] == better)


def test_a_worse_canary_is_ended_and_a_better_one_promoted(
    start: Callable[[], LiveServer], receiver: Receiver
) -> None:
    server = start()
    with server.client() as admin:
        began = "/api/v1/model-versions/v2/canary"
        http_loop.checked(admin.post(began, json={"share": 0.5}))
        rate_sides(server, admin, better="v1")
        wait_until(lambda: not version(admin, "v2")["canary"])
        assert version(admin, "v2")["reason"].startswith("Its canary was ended: v2: 0 of ")
        assert version(admin, "v1")["deployed"]
        http_loop.checked(admin.post(began, json={"share": 0.5}))
        rate_sides(server, admin, better="v2")
        wait_until(lambda: version(admin, "v2")["deployed"])
        assert version(admin, "v2")["reason"].startswith("Promoted: v2: ")
        wait_until(lambda: len(told(receiver)) == 2)
        assert [event["type"] for event in told(receiver)] == ["canary.ended", "version.promoted"]


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_two_servers_roll_back_once(
    start_server: StartServer, start: Callable[[], LiveServer], receiver: Receiver, empty_database_url: str
) -> None:
    first = start()
    shared = first.settings.model_dump(include={"data_dir", "database_url", "monitor_min_votes"})
    second = start_server(**shared, webhook_url=receiver.url, webhook_secret=SECRET)
    with first.client() as admin, second.client() as elsewhere:
        rate(admin, NEEDED, True)
        http_loop.checked(admin.post("/api/v1/model-versions/v2/deploy"))
        wait_until(lambda: send(elsewhere, new_chat(elsewhere), **SHORT)["model_version"] == "v2")
        rate(admin, NEEDED, False)
        wait_until(lambda: version(elsewhere, "v1")["deployed"])
        wait_until(lambda: send(elsewhere, new_chat(elsewhere), **SHORT)["model_version"] == "v1")
        wait_until(lambda: told(receiver))
        first.stop()
        second.stop()
    with closing(Database(empty_database_url)) as database, database.read() as session:
        rows = session.exec(select(Deployment)).all()
    assert sorted(row.by for row in rows if row.by in ("monitor", "thumbloop")) == ["monitor", "thumbloop"]
    assert len(rows) == 3
    assert len(told(receiver)) == 1
