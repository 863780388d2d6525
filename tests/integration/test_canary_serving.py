"""A canary in the database and in the backend, with real adapters on a tiny model."""

import logging
from pathlib import Path

import pytest

from app.serving.deployments import Deployments
from app.serving.openai.backend import ExternalBackend
from storage.chats import chats
from storage.db.database import Database
from storage.errors import ArtifactRefused, Busy, Conflict
from storage.registry import canaries, model_versions
from storage.settings import Settings
from tests.support.adapters import publish_adapter
from tests.support.chat_env import (
    HELLO,
    SAMPLING,
    SHORT,
    ChatEnv,
    MakeServing,
    ServingEnv,
    damage,
    move_alias,
    reply,
)
from tests.support.live_server import wait_until
from tests.support.recorded_vllm import KEY, MODEL, error, recorded_vllm, status


def begin_canary(database: Database, name: str = "v2") -> str:
    """As the command line does: in the database alone."""
    with database.write() as session:
        return canaries.start_canary(session, name, share=0.5, by="ada", why="see").id


def two_sides(env: ChatEnv) -> tuple[str, str]:
    """A new chat that was given to the canary, and one that was not."""
    with env.database.write() as session:
        made = [chats.create_chat(session, env.user_id) for _ in range(60)]
    given = next(chat.id for chat in made if chat.canary_id)
    return given, next(chat.id for chat in made if not chat.canary_id)


def answerer(env: ChatEnv, chat_id: str) -> str:
    live = env.service.send(env.user_id, chat_id, "Hello", sampling=SHORT)
    assert live.message().state == "complete"
    with env.database.read() as session:
        assert model_versions.get_version(session, str(live.message().model_version_id)).name == (
            live.model_version
        )
    return live.model_version


def test_the_end_of_a_canary_and_a_promotion_reach_its_chats_at_once(
    env: ChatEnv, endless_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish_adapter(env.database, env.artifacts, endless_model)
    env.deployments.canary.start("v2", share=0.5, by="ada", why="see")
    given, beside = two_sides(env)
    assert answerer(env, given) == "v2"
    with caplog.at_level(logging.INFO, "thumbloop.serving"):
        version, count = env.deployments.canary.end(by="ada", why="enough")
    assert (version.name, count > 1) == ("v2", True)
    assert "The canary of v2 is over; the deployed version answers." in caplog.text
    assert answerer(env, given) == "v1"
    with pytest.raises(Conflict, match="No canary is under way"):
        env.deployments.canary.end(by="ada", why="again")

    begin_canary(env.database)  # by another process
    given, beside = two_sides(env)
    assert (answerer(env, given), answerer(env, beside)) == ("v2", "v1")
    move_alias(env.database, "v2")
    assert (answerer(env, given), answerer(env, beside)) == ("v2", "v2")
    env.deployments.roll_back(by="ada", why="no")
    assert (answerer(env, given), answerer(env, beside)) == ("v1", "v1")


def test_a_canary_that_cannot_be_served_is_told_once_and_the_deployed_version_answers(
    env: ChatEnv, endless_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = damage(env.artifacts, publish_adapter(env.database, env.artifacts, endless_model))
    with pytest.raises(ArtifactRefused, match=r"adapter_model\.safetensors has changed"):
        env.deployments.canary.start("v2", share=0.5, by="ada", why="hope")
    with env.database.read() as session:
        assert model_versions.open_canary(session) is None
    with caplog.at_level(logging.ERROR, "thumbloop.serving"):
        begin_canary(env.database)
        given, beside = two_sides(env)
        assert [answerer(env, chat_id) for chat_id in (given, beside, given)] == ["v1"] * 3
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "v2 is tried as a canary but cannot be served, so the deployed version answers" in messages[0]
    file.write_bytes(file.read_bytes()[:-1])
    env.deployments.canary.end(by="ada", why="repaired")
    env.deployments.canary.start("v2", share=0.5, by="ada", why="again")
    given, _ = two_sides(env)
    assert answerer(env, given) == "v2"


def test_a_restart_goes_on_with_the_canary(serving: ServingEnv) -> None:
    tried = serving.publish()
    canary = begin_canary(serving.database)
    serving.deployments.start()
    assert tried.id in serving.backend.loaded()
    assert serving.deployments.current(canary).name == "v2"
    assert serving.deployments.current().name == "v1"


def test_a_restart_with_a_damaged_canary_serves_the_deployed_version(
    serving: ServingEnv, caplog: pytest.LogCaptureFixture
) -> None:
    serving.publish()
    damage(serving.artifacts, serving.publish())
    move_alias(serving.database, "v2")
    canary = begin_canary(serving.database, "v3")
    with caplog.at_level(logging.ERROR, "thumbloop.serving"):
        serving.deployments.start()
    assert "v3 is tried as a canary but cannot be served" in caplog.text
    assert serving.deployments.current(canary).name == "v2"
    assert reply(serving.deployments)[0] == "v2"


def test_with_room_for_two_the_canary_stays_and_the_version_before_goes(
    make_serving: MakeServing,
) -> None:
    serving = make_serving(2)
    deployments = serving.deployments
    versions = [serving.publish() for _ in range(2)]
    deployments.start()
    deployments.deploy("v2", by="ada", why="good")
    deployments.canary.start("v3", share=0.5, by="ada", why="see")
    both = {version.id for version in versions}
    wait_until(lambda: set(serving.backend.loaded()) == both, 30)
    deployments.canary.end(by="ada", why="enough")
    wait_until(lambda: set(serving.backend.loaded()) == {versions[0].id, _base(serving.database)}, 30)


@pytest.mark.parametrize("most", [2, 3])
def test_a_named_version_never_takes_the_slot_of_one_that_answers_chats(
    make_serving: MakeServing, most: int
) -> None:
    serving = make_serving(most)
    deployments = serving.deployments
    deployments.current()  # not started: nothing loads the version before again
    answering = {serving.publish().id for _ in range(2)}
    named = serving.publish()
    deployments.deploy("v2", by="ada", why="good")
    canary = deployments.canary.start("v3", share=0.5, by="ada", why="see").id
    assert set(serving.backend.loaded()) == answering | {_base(serving.database)}
    if most == 2:
        with pytest.raises(Busy, match="v4 has to wait"):
            deployments.stream(HELLO, SAMPLING, version_id=named.id)
        assert set(serving.backend.loaded()) == answering
    else:
        version, stream = deployments.stream(HELLO, SAMPLING, canary_id=canary, version_id=named.id)
        assert (version.name, stream.end.finish_reason) == ("v4", "length")
        assert set(serving.backend.loaded()) == answering | {named.id}


def _base(database: Database) -> str:
    with database.read() as session:
        return model_versions.get_version(session, "v1").id


def test_versions_wait_for_a_model_server_that_is_overrun(
    serving: ServingEnv, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    overrun = status(429, error("One at a time.", "RateLimitError", 429))
    with recorded_vllm(lambda text: list(range(len(text)))) as server:
        given = {"openai_base_url": server.url, "openai_api_key": KEY, "openai_model": MODEL}
        backend = ExternalBackend(settings.model_copy(update=given), None)
        deployments = Deployments(serving.database, serving.artifacts, backend, max_loaded_versions=4)
        assert deployments.current().name == "v1"
        serving.publish()
        serving.publish()
        with caplog.at_level(logging.ERROR, "thumbloop.serving"):
            move_alias(serving.database, "v2")
            server.script += [overrun] * 2
            assert [deployments.current().name for _ in range(3)] == ["v1", "v1", "v2"]
            canary = begin_canary(serving.database, "v3")
            server.script += [overrun] * 2
            assert [deployments.current(canary).name for _ in range(3)] == ["v2", "v2", "v3"]
        backend.close()
    records = [record for record in caplog.records if record.name == "thumbloop.serving"]
    assert [record.getMessage().split(":")[0] for record in records] == [
        "v2 is deployed but waits for the model server, so v1 keeps replying",
        "v3 is tried as a canary but waits for the model server, so the deployed version answers its chats",
    ]
