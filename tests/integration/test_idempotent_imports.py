"""An import with an idempotency key: the same request again answers the same and imports nothing."""

from datetime import timedelta

import httpx
import pytest
import sqlalchemy as sa

from storage.db.database import Database
from storage.db.tables import ImportRequest, now
from storage.errors import Conflict, InvalidInput
from storage.imports import requests
from storage.people import users
from tests.support import http_loop
from tests.support.live_server import at_once
from tests.support.rest import refused

PATH = "/api/v1/import"


def rows(name: str, number: int = 3) -> bytes:
    lines = (f'{{"prompt": "{name} {n}?", "completion": "{n}.", "label": true}}\n' for n in range(number))
    return "".join(lines).encode()


def post(client: httpx.Client, key: str, content: bytes, **params: object) -> httpx.Response:
    return client.post(PATH, params=params, content=content, headers={"Idempotency-Key": key})  # type: ignore[arg-type]


def test_the_same_request_again_gets_the_same_report(client: httpx.Client, stranger: httpx.Client) -> None:
    first = post(client, "monday", rows("a"))
    assert http_loop.checked(first)["accepted"] == 3
    assert "idempotent-replayed" not in first.headers
    again = post(client, "monday", rows("a"))
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()
    in_a_form = client.post(
        PATH, files={"file": ("a.jsonl", rows("a"))}, headers={"Idempotency-Key": "monday"}
    )
    assert in_a_form.json() == first.json()
    assert http_loop.checked(post(client, "tuesday", rows("a")))["duplicates"] == 3
    refused(post(client, "monday", rows("b")), 422, "idempotency_key_reused", "Idempotency-Key")
    refused(post(client, "monday", rows("a"), skip_bad=True), 422, "idempotency_key_reused")
    refused(post(stranger, "monday", rows("a")), 403)


def test_a_refused_import_does_not_use_its_key_up(client: httpx.Client) -> None:
    refused(post(client, "mended", b'{"label": 1}\n'), 422)
    assert http_loop.checked(post(client, "mended", rows("c")))["accepted"] == 3


def test_a_key_is_bounded(client: httpx.Client) -> None:
    for key in ("", "x" * 256, "two words", "k\tk"):
        refused(post(client, key, rows("d")), 422, field="Idempotency-Key")
    assert http_loop.checked(post(client, "x" * 255, rows("d")))["accepted"] == 3


def test_the_same_key_twice_at_once_is_refused_while_the_first_is_under_way(client: httpx.Client) -> None:
    many = rows("e", 5000)
    answers = at_once(4, lambda _: post(client, "e", many))
    done = [answer for answer in answers if answer.status_code == 200]
    refusals = [answer for answer in answers if answer.status_code != 200]
    assert done
    assert {answer.json()["accepted"] for answer in done} == {5000}
    assert sum("idempotent-replayed" not in answer.headers for answer in done) == 1
    for answer in refusals:
        refused(answer, 409, "import_under_way")
        assert int(answer.headers["retry-after"]) > 0


@pytest.fixture
def person(database: Database) -> str:
    with database.write() as session:
        return users.create_anonymous(session).id


@pytest.mark.both_engines
def test_a_key_is_held_by_one_and_free_again_whatever_happened(database: Database, person: str) -> None:
    other_server = Database(database.engine.url.render_as_string(hide_password=False))
    with requests.one_at_a_time(database, person, "k"):
        for server in (database, other_server):
            with (
                pytest.raises(Conflict, match="still running"),
                requests.one_at_a_time(server, person, "k"),
            ):
                pass
        with requests.one_at_a_time(database, person, "another"):
            pass
    with pytest.raises(ZeroDivisionError), requests.one_at_a_time(database, person, "k"):
        raise ZeroDivisionError
    with requests.one_at_a_time(other_server, person, "k"):
        pass
    other_server.close()


def test_a_key_is_forgotten_after_a_month(database: Database, person: str) -> None:
    with database.write() as session:
        requests.store_report(session, person, "k", "a", {"accepted": 1})
    with database.write() as session:
        assert requests.stored_report(session, person, "k", "a") == {"accepted": 1}
        with pytest.raises(InvalidInput, match="came with another file"):
            requests.stored_report(session, person, "k", "b")
        assert requests.remove_old_requests(session) == 0
        session.execute(sa.update(ImportRequest).values(created_at=now() - timedelta(days=31)))
        assert requests.remove_old_requests(session) == 1
        assert requests.stored_report(session, person, "k", "b") is None
