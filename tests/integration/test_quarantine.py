"""Quarantine over the API and from the command line, beside a running server."""

import httpx

from tests.support import http_loop
from tests.support.live_server import LiveServer
from tests.support.programs import run_command
from tests.support.rest import refused


def thumbloop(server: LiveServer, *words: str) -> str:
    return run_command(*words, environment=server.environment, check=True).stdout


def test_an_admin_sets_a_person_aside_and_releases_them(
    shared_server: LiveServer, client: httpx.Client, stranger: httpx.Client
) -> None:
    def votes_that_count() -> tuple[int, int]:
        counted = http_loop.checked(client.get("/api/v1/stats"))["votes"]
        exported = client.get("/api/v1/export").text.splitlines()
        assert len(exported) == counted["up"] + counted["down"]
        return counted["up"], counted["down"]

    http_loop.vote(client, http_loop.chat_once(client, "Hello")["message_id"], True)
    first, second = (http_loop.chat_once(stranger, "Hello")["message_id"] for _ in range(2))
    http_loop.vote(stranger, first, False)
    assert votes_that_count() == (1, 1)
    person = http_loop.checked(stranger.get("/api/v1/me"))["id"]
    address = f"/api/v1/users/{person}/quarantine"
    refused(stranger.put(address, json={"quarantined": True}), 403, "admin_only")
    refused(client.put(address, json={"quarantined": "yes"}), 422, field="quarantined")

    answer = client.put(address, json={"quarantined": True, "reason": "All down."})
    assert http_loop.checked(answer) == {"quarantined": True, "votes": 1}
    assert http_loop.vote(stranger, second, False)["revision"] == 1
    assert votes_that_count() == (1, 0)
    kept = client.get("/api/v1/export", params={"quarantined": "only"}).text.splitlines()
    assert len(kept) == 2

    assert "2 votes" in thumbloop(shared_server, "quarantine", "eve", "--release")
    assert votes_that_count() == (1, 2)
    assert "2 votes" in thumbloop(shared_server, "quarantine", person, "--reason", "again")
    assert votes_that_count() == (1, 0)
