"""What people say and allow beyond a thumb, over HTTP: tags, signals, consent, edits, and erasure."""

import httpx

from storage.db.ids import new_id
from tests.support import http_loop
from tests.support.rest import new_chat, refused, send


def test_tags_are_offered_and_others_are_taken(client: httpx.Client) -> None:
    tags = http_loop.checked(client.get("/api/v1/vote-tags"))
    assert (tags["down"][:2], tags["up"][:2]) == (["wrong", "unclear"], ["correct", "clear"])
    assert tags["tags"] == tags["down"] + tags["up"]
    reply = send(client, new_chat(client))
    body = {"label": False, "tags": ["wrong", "my own"]}
    vote = http_loop.checked(client.put(f"/api/v1/messages/{reply['id']}/vote", json=body))
    assert vote["tags"] == ["wrong", "my own"]


def test_signals_are_noted_and_are_no_votes(client: httpx.Client, stranger: httpx.Client) -> None:
    chat = new_chat(client)
    reply = send(client, chat)
    path = f"/api/v1/messages/{reply['id']}/signals"
    before = http_loop.checked(client.get("/api/v1/stats"))
    for _ in range(2):
        assert http_loop.checked(client.post(path, json={"kind": "copied"}))["kind"] == "copied"
    refused(client.post(path, json={"kind": "sighed"}), 422, field="kind")
    refused(stranger.post(path, json={"kind": "copied"}), 403, "not_yours")
    refused(client.post(f"/api/v1/messages/{new_id()}/signals", json={"kind": "copied"}), 404)
    second = send(client, chat, "Hello, you", edits=reply["parent_id"])
    again = client.post(f"/api/v1/messages/{second['id']}/regenerate", params={"stream": False}, json={})
    assert http_loop.checked(again)["parent_id"] == second["parent_id"]
    after = http_loop.checked(client.get("/api/v1/stats"))
    grown = {kind: after["signals"][kind] - before["signals"][kind] for kind in after["signals"]}
    assert grown == {"regenerated": 1, "edited": 1, "copied": 1}
    assert after["votes"] == before["votes"]


def test_consent_is_given_and_withdrawn_chat_by_chat(client: httpx.Client, stranger: httpx.Client) -> None:
    chat = new_chat(client)
    http_loop.vote(client, send(client, chat)["id"], True)

    def votes() -> int:
        counts = http_loop.checked(client.get("/api/v1/stats"))["votes"]
        return int(counts["up"] + counts["down"])

    before = votes()
    path = f"/api/v1/chats/{chat}"
    assert http_loop.checked(client.get(path))["consent"] is True
    refused(stranger.patch(path, json={"consent": False}), 403, "not_yours")
    refused(client.patch(path, json={"consent": "no"}), 422, field="consent")
    changed = http_loop.checked(client.patch(path, json={"consent": False}))
    assert (changed["consent"], votes()) == (False, before - 1)
    assert http_loop.checked(client.patch(path, json={"title": "Other"}))["consent"] is False
    assert http_loop.checked(client.patch(path, json={"consent": True}))["title"] == "Other"
    assert votes() == before
    assert (
        http_loop.checked(client.get(f"/api/v1/chats/{new_chat(client, consent=False)}"))["consent"] is False
    )


def test_an_erasure_can_be_looked_at_first(client: httpx.Client, stranger: httpx.Client) -> None:
    http_loop.vote(stranger, send(stranger, new_chat(stranger))["id"], True)
    eve = http_loop.checked(stranger.get("/api/v1/me"))["id"]
    path = f"/api/v1/users/{eve}/data"
    refused(stranger.get(path), 403, "admin_only")
    found = http_loop.checked(client.get(path))
    assert (found["votes"], found["affected_versions"]) == (1, [])
    assert http_loop.checked(client.get(path)) == found  # nothing has gone
    refused(client.get(f"/api/v1/users/{new_id()}/data"), 404)
