"""A canary over HTTP: started, chatted with, compared, ended, and over the OpenAI-compatible API."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import openai
import pytest

from storage.db.database import open_database
from storage.registry.artifacts import Artifacts
from tests.support import http_loop
from tests.support.adapters import publish_adapter
from tests.support.live_server import LiveServer
from tests.support.rest import new_chat, refused, send

START = "/api/v1/model-versions/v2/canary"


@pytest.fixture(scope="module")
def server(shared_server: LiveServer, tiny_model: Path) -> LiveServer:
    """With v2 and v3 to try."""
    with closing(open_database(shared_server.settings)) as database:
        for seed in (1, 2):
            publish_adapter(database, Artifacts(shared_server.settings.data_dir), tiny_model, seed=seed)
    return shared_server


@pytest.fixture
def admin(server: LiveServer) -> Iterator[httpx.Client]:
    """At the end no canary is under way."""
    with server.client() as client:
        yield client
        client.post("/api/v1/canary/end")


def test_a_canary_is_tried_compared_and_ended(admin: httpx.Client) -> None:
    stats = http_loop.checked(admin.get("/api/v1/stats"))
    assert stats["canary"] is None
    old = new_chat(admin)
    began = http_loop.checked(admin.post(START, json={"share": 0.5, "why": "It passed."}))
    assert (began["version"], began["compared_with"], began["share"]) == ("v2", "v1", 0.5)
    assert (began["chats"], began["served"], began["why"]) == (0, True, "It passed.")
    versions = http_loop.checked(admin.get("/api/v1/model-versions"))["items"]
    found = {one["name"]: (one["deployed"], one["canary"], one["share"]) for one in versions}
    assert found == {"v1": (True, False, 0.5), "v2": (False, True, 0.5), "v3": (False, False, 0)}

    answered: dict[str, list[str]] = {"v1": [], "v2": []}
    while len(answered["v1"]) < 2 or len(answered["v2"]) < 2:
        chat = new_chat(admin)
        answer = send(admin, chat)
        answered[answer["model_version"]].append(chat)
        up = answer["model_version"] == "v2"
        http_loop.checked(admin.put(f"/api/v1/messages/{answer['id']}/vote", json={"label": up}))
    assert send(admin, old)["model_version"] == "v1"
    for version, chats in answered.items():
        assert send(admin, chats[0], "And now?")["model_version"] == version

    canary = http_loop.checked(admin.get("/api/v1/stats"))["canary"]
    assert canary["chats"] == len(answered["v2"])
    tried, deployed = canary["approval"], canary["approval_deployed"]
    assert (tried["version"], tried["up"], tried["down"]) == ("v2", len(answered["v2"]), 0)
    assert (deployed["version"], deployed["up"], deployed["down"]) == ("v1", 0, len(answered["v1"]))
    assert canary["difference"]["value"] == 1
    assert canary["difference"]["low"] < 1 == canary["difference"]["high"]

    ended = http_loop.checked(admin.post("/api/v1/canary/end", json={"why": "Enough."}))
    assert ended == {"version": "v2", "chats": len(answered["v2"]), "deployed": "v1"}
    assert send(admin, answered["v2"][0], "Who are you now?")["model_version"] == "v1"
    refused(admin.post("/api/v1/canary/end"), 409, "no_canary")


def test_what_is_refused(admin: httpx.Client, stranger: httpx.Client) -> None:
    refused(stranger.post(START, json={"share": 0.5}), 403)
    refused(stranger.post("/api/v1/canary/end"), 403)
    refused(admin.post(START, json={"share": 1.5}), 422, field="share")
    refused(admin.post("/api/v1/model-versions/v1/canary", json={"share": 0.5}), 409, "deployed")
    refused(admin.post("/api/v1/model-versions/v9/canary", json={"share": 0.5}), 404)
    http_loop.checked(admin.post(START, json={"share": 0.5}))
    refused(admin.post("/api/v1/model-versions/v3/canary", json={"share": 0.5}), 409, "canary_open")
    assert http_loop.checked(admin.post(START, json={"share": 0.25}))["share"] == 0.25


def test_requests_of_one_end_user_stay_on_one_side(admin: httpx.Client, server: LiveServer) -> None:
    http_loop.checked(admin.post(START, json={"share": 0.5}))
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token(), max_retries=0)

    def version(**who: str) -> str:
        request = {"model": "deployed", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
        return client.chat.completions.create(**request | who).model  # type: ignore[call-overload,no-any-return]

    sides = {user: {version(user=user) for _ in range(2)} for user in map(str, range(20))}
    assert all(len(side) == 1 for side in sides.values())
    assert set.union(*sides.values()) == {"v1", "v2"}
    assert {version() for _ in range(20)} == {"v1", "v2"}, "without a user each request is split alone"
    assert {version(model="v1") for _ in range(20)} == {"v1"}, "who names a version gets that"
