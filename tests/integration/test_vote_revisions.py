"""A vote changes only if it is as its sender believes: ETag, If-Match and If-None-Match."""

from contextlib import closing

import httpx
import pytest

from storage.db.database import open_database
from storage.people import tokens, users
from tests.support import http_loop
from tests.support.live_server import LiveServer, at_once, get
from tests.support.rest import new_chat, refused, send

UP, DOWN = {"label": True}, {"label": False}


@pytest.fixture
def address(client: httpx.Client) -> str:
    return f"/api/v1/messages/{http_loop.chat_once(client, 'Hello')['message_id']}/vote"


def test_every_answer_names_the_revision(client: httpx.Client, address: str) -> None:
    def etag(answer: httpx.Response) -> str:
        assert answer.headers["ETag"] == f'"{http_loop.checked(answer)["revision"]}"'
        return answer.headers["ETag"]

    assert etag(client.get(address)) == '"0"'
    assert etag(client.put(address, json=UP)) == '"1"'
    assert etag(client.put(address, json=UP)) == '"1"'  # the same again changes nothing
    assert etag(client.put(address, json=DOWN)) == '"2"'
    assert etag(client.get(address)) == '"2"'
    assert etag(client.delete(address)) == '"3"'
    assert http_loop.checked(client.get(address))["label"] is None


def test_a_vote_that_changed_meanwhile_is_not_overwritten(client: httpx.Client, address: str) -> None:
    http_loop.checked(client.put(address, json=UP, headers={"If-Match": '"0"'}))
    http_loop.checked(client.put(address, json=DOWN, headers={"If-Match": '"1"'}))
    for method, body in (("PUT", UP), ("DELETE", None)):
        late = client.request(method, address, json=body, headers={"If-Match": '"1"'})
        message = refused(late, 412, "revision_conflict")
        assert "the revision 2, not 1" in message
        assert 'If-Match: "2"' in message
    assert http_loop.checked(client.get(address))["revision"] == 2
    http_loop.checked(client.delete(address, headers={"If-Match": '"2"'}))


def test_a_first_vote_only(client: httpx.Client, address: str) -> None:
    first = {"If-None-Match": "*"}
    http_loop.checked(client.put(address, json=UP, headers=first))
    assert "revision 1" in refused(client.put(address, json=DOWN, headers=first), 412, "revision_conflict")
    http_loop.checked(client.delete(address))
    assert http_loop.checked(client.put(address, json=DOWN, headers=first))["revision"] == 3


def test_of_two_who_saw_the_same_revision_one_wins(shared_server: LiveServer, address: str) -> None:
    def change(_: int) -> int:
        with shared_server.client() as client:
            return client.put(address, json=UP, headers={"If-Match": '"0"'}).status_code

    shared_server.token()
    assert sorted(at_once(8, change)) == [200] + [412] * 7


@pytest.mark.parametrize(
    ("header", "value"),
    [
        *(
            ("If-Match", value)
            for value in ("1", '"x"', 'W/"1"', '"1", "2"', "*", '"-1"', '"01"', "", '"9999999999"')
        ),
        *(("If-None-Match", value) for value in ('"1"', "", "**")),
    ],
)
def test_a_header_that_is_none_is_named(client: httpx.Client, address: str, header: str, value: str) -> None:
    for method, body in (("PUT", UP), ("DELETE", None)):
        refused(client.request(method, address, json=body, headers={header: value}), 422, field=header)
    assert http_loop.checked(client.get(address))["revision"] == 0


def test_only_the_voter_reads_their_vote(client: httpx.Client, stranger: httpx.Client, address: str) -> None:
    refused(stranger.get(address), 403, "not_yours")
    refused(get(f"{client.base_url}{address}"), 401, "not_authenticated")


def test_a_token_that_was_revoked_votes_no_more(shared_server: LiveServer, address: str) -> None:
    with closing(open_database(shared_server.settings)) as database:
        with database.write() as session:
            admin = users.ensure_user(session, "admin", "admin")
            token, plain = tokens.create_token(session, admin.id, name="short-lived")
        headers = {"Authorization": f"Bearer {plain}"}
        with shared_server.visit(headers=headers) as client:
            http_loop.checked(client.put(address, json=UP))
            with database.write() as session:
                tokens.revoke_token(session, token.id)
            for method, body in (("PUT", DOWN), ("DELETE", None), ("GET", None)):
                refused(client.request(method, address, json=body), 401, "not_authenticated")


def test_a_whole_chat_is_voted_on_and_taken_back(client: httpx.Client) -> None:
    chat_id = new_chat(client)
    replies = [send(client, chat_id, text)["id"] for text in ("Hi", "And?", "So?")]
    own = http_loop.checked(client.put(f"/api/v1/messages/{replies[1]}/vote", json={"label": False}))
    path = f"/api/v1/chats/{chat_id}/vote"
    found = http_loop.checked(client.put(path, json={"label": True}))
    assert found == {"chat_id": chat_id, "label": True, "message_ids": [replies[0], replies[2]], "share": 0.5}
    assert http_loop.checked(client.get(path)) == found
    cleared = http_loop.checked(client.delete(path))
    assert (cleared["label"], cleared["message_ids"]) == (None, [])
    kept = http_loop.checked(client.get(f"/api/v1/chats/{chat_id}"))["messages"]
    assert [message["vote"] for message in kept if message["role"] == "assistant"] == [None, own, None]
