"""A canary in the database and in the backend, with real adapters on a tiny model."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.serving.deployments import Deployments
from app.serving.local.backend import LocalBackend
from app.serving.openai.backend import ExternalBackend
from storage.chats import chats, stats, votes
from storage.db.database import Database
from storage.db.tables import ModelVersion
from storage.errors import ArtifactRefused, Busy, Conflict
from storage.registry import canaries, model_versions
from storage.registry.artifacts import Artifacts
from storage.settings import Settings
from tests.support.adapters import publish_adapter
from tests.support.chat_env import HELLO, SAMPLING, SHORT, ChatEnv, alias, damage, move_alias, reply
from tests.support.live_server import wait_until
from tests.support.recorded_vllm import KEY, MODEL, error, recorded_vllm, status

# What the database does is tried on both elsewhere.
ONE_ENGINE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
Publish = Callable[..., ModelVersion]


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


def test_both_sides_chat_at_once_and_their_votes_are_compared(env: ChatEnv, endless_folder: Path) -> None:
    publish_adapter(env.database, env.artifacts, endless_folder, state="candidate")
    assert answerer(env, env.chat_id) == "v1"
    canary = env.deployments.canary.start("v2", share=0.5, by="ada", why="see")
    given, beside = two_sides(env)
    with ThreadPoolExecutor(3) as pool:
        for _ in range(2):
            answers = pool.map(lambda chat_id: answerer(env, chat_id), (given, beside, env.chat_id))
            assert list(answers) == ["v2", "v1", "v1"]
    with env.database.write() as session:
        for chat_id, label in ((given, True), (beside, False), (env.chat_id, True)):
            last = chats.current_path(session, chat_id)[-1]
            votes.cast_vote(session, user_id=env.user_id, message_id=last.id, label=label)
        one, other = stats.canary_stats(session, canary)
    assert (one.version, one.replies, one.up, one.down) == ("v2", 2, 1, 0)
    assert (other.version, other.replies, other.up, other.down) == ("v1", 2, 0, 1)
    assert alias(env.database) == "v1"


def test_the_end_of_a_canary_and_a_promotion_reach_its_chats_at_once(
    env: ChatEnv, endless_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish_adapter(env.database, env.artifacts, endless_folder)
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
    env: ChatEnv, endless_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = damage(env.artifacts, publish_adapter(env.database, env.artifacts, endless_folder))
    with pytest.raises(ArtifactRefused, match=r"adapter_model\.safetensors has changed"):
        env.deployments.canary.start("v2", share=0.5, by="ada", why="hope")
    with env.database.read() as session:
        assert model_versions.open_canary(session) is None
    with caplog.at_level(logging.ERROR, "thumbloop.serving"):
        begin_canary(env.database)
        given, beside = two_sides(env)
        assert [answerer(env, chat_id) for chat_id in (given, beside, given)] == ["v1"] * 3
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "v2 is tried as a canary but cannot be served, so the deployed version answers" in told[0]
    file.write_bytes(file.read_bytes()[:-1])
    env.deployments.canary.end(by="ada", why="repaired")
    env.deployments.canary.start("v2", share=0.5, by="ada", why="again")
    given, _ = two_sides(env)
    assert answerer(env, given) == "v2"


@ONE_ENGINE
def test_a_restart_goes_on_with_the_canary(
    deployments: Deployments, database: Database, backend: LocalBackend, publish: Publish
) -> None:
    tried = publish()
    canary = begin_canary(database)
    deployments.start()
    assert tried.id in backend.loaded()
    assert deployments.current(canary).name == "v2"
    assert deployments.current().name == "v1"


@ONE_ENGINE
def test_a_restart_with_a_damaged_canary_serves_the_deployed_version(
    deployments: Deployments,
    database: Database,
    artifacts: Artifacts,
    publish: Publish,
    caplog: pytest.LogCaptureFixture,
) -> None:
    publish()
    damage(artifacts, publish())
    move_alias(database, "v2")
    canary = begin_canary(database, "v3")
    with caplog.at_level(logging.ERROR, "thumbloop.serving"):
        deployments.start()
    assert "v3 is tried as a canary but cannot be served" in caplog.text
    assert deployments.current(canary).name == "v2"
    assert reply(deployments)[0] == "v2"


@ONE_ENGINE
def test_with_room_for_two_the_canary_stays_and_the_version_before_goes(
    database: Database, artifacts: Artifacts, backend: LocalBackend, publish: Publish
) -> None:
    deployments = Deployments(database, artifacts, backend, max_loaded_versions=2)
    versions = [publish() for _ in range(2)]
    deployments.start()
    try:
        deployments.deploy("v2", by="ada", why="good")
        deployments.canary.start("v3", share=0.5, by="ada", why="see")
        both = {version.id for version in versions}
        wait_until(lambda: set(backend.loaded()) == both, 30)
        deployments.canary.end(by="ada", why="enough")
        wait_until(lambda: set(backend.loaded()) == {versions[0].id, _base(database)}, 30)
    finally:
        deployments.stop()


@ONE_ENGINE
@pytest.mark.parametrize("most", [2, 3])
def test_a_named_version_never_takes_the_slot_of_one_that_answers_chats(
    database: Database, artifacts: Artifacts, backend: LocalBackend, publish: Publish, most: int
) -> None:
    deployments = Deployments(database, artifacts, backend, max_loaded_versions=most)
    deployments.current()  # not started: nothing loads the version before again
    answering = {publish().id for _ in range(2)}
    named = publish()
    deployments.deploy("v2", by="ada", why="good")
    canary = deployments.canary.start("v3", share=0.5, by="ada", why="see").id
    assert set(backend.loaded()) == answering | {_base(database)}
    if most == 2:
        with pytest.raises(Busy, match="v4 has to wait"):
            deployments.stream(HELLO, SAMPLING, version_id=named.id)
        assert set(backend.loaded()) == answering
    else:
        version, stream = deployments.stream(HELLO, SAMPLING, canary_id=canary, version_id=named.id)
        assert (version.name, stream.end.finish_reason) == ("v4", "length")
        assert set(backend.loaded()) == answering | {named.id}


def _base(database: Database) -> str:
    with database.read() as session:
        return model_versions.get_version(session, "v1").id


@ONE_ENGINE
def test_versions_wait_for_a_model_server_that_is_overrun(
    database: Database,
    artifacts: Artifacts,
    publish: Publish,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    overrun = status(429, error("One at a time.", "RateLimitError", 429))
    with recorded_vllm(lambda said: list(range(len(said)))) as server:
        given = {"openai_base_url": server.url, "openai_api_key": KEY, "openai_model": MODEL}
        backend = ExternalBackend(settings.model_copy(update=given), None)
        deployments = Deployments(database, artifacts, backend, max_loaded_versions=4)
        assert deployments.current().name == "v1"
        publish()
        publish()
        with caplog.at_level(logging.ERROR, "thumbloop.serving"):
            move_alias(database, "v2")
            server.script += [overrun] * 2
            assert [deployments.current().name for _ in range(3)] == ["v1", "v1", "v2"]
            canary = begin_canary(database, "v3")
            server.script += [overrun] * 2
            assert [deployments.current(canary).name for _ in range(3)] == ["v2", "v2", "v3"]
        backend.close()
    told = [
        record.getMessage().split(":")[0] for record in caplog.records if record.name == "thumbloop.serving"
    ]
    assert told == [
        "v2 is deployed but waits for the model server, so v1 keeps replying",
        "v3 is tried as a canary but waits for the model server, so the deployed version answers its chats",
    ]
