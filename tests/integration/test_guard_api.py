"""The guard over the API, on the command line, and in what a start and `doctor` say."""

import httpx

from app.commands.doctor import check_guard
from storage.db.database import Database
from storage.db.ids import new_id
from storage.registry.set_aside import Reason
from storage.settings import Settings
from tests.support import http_loop
from tests.support.live_server import LiveServer
from tests.support.programs import run_command
from tests.support.rest import refused
from tests.support.rows import add_set_aside, audit_events

GUARD = "/api/v1/guard"


def test_an_admin_sees_what_was_set_aside_and_releases_it(
    shared_server: LiveServer, client: httpx.Client, stranger: httpx.Client, store: Database
) -> None:
    with store.write() as session:
        why = Reason("a phrase that few people push", "visit acme deals")
        person, reply, run = add_set_aside(session, shared_server.settings.model, why)
    for verb, address in (("GET", ""), ("GET", "/votes"), ("POST", "/releases")):
        body = {"user_id": person.id} if verb == "POST" else None
        refused(stranger.request(verb, GUARD + address, json=body), 403, "admin_only")
    shown = http_loop.checked(client.get(GUARD))
    assert shown["description"] == "no limits for a person; from THUMBLOOP_AUTH=anonymous"
    assert (shown["set_aside"], shown["influence"], shown["releases"]) == (1, [], [])
    assert shown["people"] == [
        {"user_id": person.id, "votes": 1, "reasons": {why.reason: 1}, "phrases": [why.detail]}
    ]
    (vote,) = http_loop.checked(client.get(f"{GUARD}/votes"))["items"]
    assert vote | {"id": "", "run_id": run.id} == {
        "id": "",
        "run_id": run.id,
        "message_id": reply.id,
        "user_id": person.id,
        "reason": why.reason,
        "detail": why.detail,
    }

    refused(client.post(f"{GUARD}/releases", json={"user_id": new_id()}), 404)
    body = {"user_id": person.id, "message_id": reply.id, "reason": "It is our slogan."}
    answer = client.post(f"{GUARD}/releases", json=body)
    assert answer.status_code == 201
    found = http_loop.checked(answer)
    assert client.post(f"{GUARD}/releases", json=body).json() == found, "once"
    assert http_loop.checked(client.get(GUARD))["releases"] == [found]
    address = f"{GUARD}/releases/{found['id']}"
    assert http_loop.checked(client.delete(address))["ended_at"] is not None
    refused(client.delete(address), 409)
    with store.read() as session:
        ended, released = audit_events(session)[:2]
    assert released.detail == {"message_id": reply.id, "reason": "It is our slogan."}
    assert (released.target, ended.target) == (person.id, person.id)


def test_the_command_shows_and_releases(shared_server: LiveServer, store: Database) -> None:
    def thumbloop(*words: str, check: bool = True) -> str:
        done = run_command(*words, environment=shared_server.environment, check=check)
        return done.stdout + done.stderr

    with store.write() as session:
        why = Reason("nearly the same reply more than 5 times", "")
        person, reply, _ = add_set_aside(session, shared_server.settings.model, why)
    said = thumbloop("guard", "show")
    assert "Limits: no limits for a person; from THUMBLOOP_AUTH=anonymous." in said
    assert person.id in said
    assert why.reason in said
    assert "Released" not in said
    assert "lets pass every vote" in thumbloop("guard", "release", person.id, "--reason", "known")
    assert "lets pass the vote on" in thumbloop("guard", "release", person.id, "--message", reply.id)
    assert "every vote" in thumbloop("guard", "show")
    assert "checks every vote" in thumbloop("guard", "release", person.id, "--undo")
    assert "has no release of every vote" in thumbloop("guard", "release", person.id, "--undo", check=False)


def test_doctor_says_which_limits_apply() -> None:
    laptop, accounts = check_guard(Settings()), check_guard(Settings(auth="accounts"))
    assert (laptop.status, accounts.status) == ("ok", "ok")
    assert laptop.text == "no limits for a person; from THUMBLOOP_AUTH=anonymous"
    assert accounts.text == (
        "at least 2 people, 20% of each kind from one person, 100 of each kind from one person a day, "
        "20 votes of one person a minute, 5 nearly equal replies, no phrase pushed with 5 prompts; "
        "from THUMBLOOP_AUTH=accounts"
    )
    alone = check_guard(Settings(auth="accounts", min_voters=1))
    assert (alone.status, alone.text.rpartition(", ")[2]) == ("warn", "THUMBLOOP_MIN_VOTERS")
