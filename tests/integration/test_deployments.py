"""The alias in the database and the slots in the backend, with real adapters on a tiny model."""

import gc
import itertools
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.serving.deployments import Deployments
from app.serving.local.backend import LocalBackend
from app.serving.reply import Sampling
from storage.db.database import Database
from storage.db.tables import ModelVersion
from storage.errors import ArtifactRefused, Busy, Conflict, NotFound
from storage.registry import model_versions
from storage.registry.artifacts import Artifacts
from tests.support.chat_env import HELLO, SAMPLING, alias, damage, move_alias, reply
from tests.support.live_server import wait_until

MOST = 4
LONG = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=900, seed=3)


def test_a_deployed_version_answers_next_and_running_streams_end_on_theirs(
    deployments: Deployments, database: Database, publish: Callable[..., ModelVersion]
) -> None:
    deployments.start()
    name, by_base = reply(deployments)
    assert name == "v1"
    _, alone = deployments.stream(HELLO, LONG)
    whole = alone.end.content
    _, running = deployments.stream(HELLO, LONG)
    deltas = iter(running)
    text = next(deltas)
    publish()
    assert deployments.deploy("v2", by="ada", why="better").name == "v2"
    name, by_tuned = reply(deployments)
    assert name == "v2"
    assert by_tuned != by_base
    assert text + "".join(deltas) == whole
    assert deployments.roll_back(by="ada", why="worse").name == "v1"
    assert reply(deployments) == ("v1", by_base)
    with database.read() as session:
        history = [(row.by, row.why) for row in model_versions.deployments(session)]
    assert history[:2] == [("ada", "worse"), ("ada", "better")]


def test_the_first_reply_after_the_alias_moved_is_by_the_new_version(
    deployments: Deployments, database: Database, publish: Callable[..., ModelVersion]
) -> None:
    deployments.start()
    publish()
    move_alias(database, "v2")
    with ThreadPoolExecutor(8) as pool:
        assert {version.name for version in pool.map(lambda _: deployments.current(), range(8))} == {"v2"}
    assert reply(deployments)[0] == "v2"


def test_the_watcher_builds_the_slot_before_anyone_asks(
    deployments: Deployments, database: Database, backend: LocalBackend, publish: Callable[..., ModelVersion]
) -> None:
    deployments.start()
    version = publish()
    move_alias(database, "v2")
    wait_until(lambda: version.id in backend.loaded(), 30)


def test_a_damaged_adapter_is_refused_and_the_alias_stays(
    deployments: Deployments,
    database: Database,
    artifacts: Artifacts,
    backend: LocalBackend,
    publish: Callable[..., ModelVersion],
) -> None:
    deployments.start()
    version = publish("candidate")
    file = damage(artifacts, version)
    with pytest.raises(ArtifactRefused, match=r"adapter_model\.safetensors has changed"):
        deployments.deploy("v2", by="ada", why="hope")
    assert alias(database) == "v1"
    assert reply(deployments)[0] == "v1"
    assert version.id not in backend.loaded()
    with database.read() as session:
        assert model_versions.get_version(session, "v2").state == "candidate"
    file.write_bytes(file.read_bytes()[:-1])
    deployments.deploy("v2", by="ada", why="restored")
    assert reply(deployments)[0] == "v2"


def test_an_alias_on_a_damaged_adapter_is_told_once_and_the_old_version_keeps_replying(
    deployments: Deployments,
    database: Database,
    artifacts: Artifacts,
    publish: Callable[..., ModelVersion],
    caplog: pytest.LogCaptureFixture,
) -> None:
    deployments.start()
    publish()
    deployments.deploy("v2", by="ada", why="good")
    file = damage(artifacts, publish())
    with caplog.at_level(logging.ERROR, "thumbloop.serving"):
        move_alias(database, "v3")
        assert [reply(deployments)[0] for _ in range(3)] == ["v2"] * 3
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "v3 is deployed but cannot be served, so v2 keeps replying" in told[0]
    file.write_bytes(file.read_bytes()[:-1])
    move_alias(database, "v2")
    assert reply(deployments)[0] == "v2"
    move_alias(database, "v3")  # tried again, and good this time
    assert reply(deployments)[0] == "v3"


@pytest.mark.parametrize(("damaged", "replies"), [(["v3"], "v2"), (["v2", "v3"], "v1")])
def test_a_start_with_a_damaged_deployed_version_falls_back_loudly(
    deployments: Deployments,
    database: Database,
    artifacts: Artifacts,
    publish: Callable[..., ModelVersion],
    caplog: pytest.LogCaptureFixture,
    damaged: list[str],
    replies: str,
) -> None:
    for version in (publish(), publish()):
        move_alias(database, version.name)
        if version.name in damaged:
            damage(artifacts, version)
    with caplog.at_level(logging.ERROR, "thumbloop.serving"):
        deployments.start()
    assert reply(deployments)[0] == replies
    assert alias(database) == "v3"
    assert "v3 is deployed but cannot be served" in caplog.text
    assert f"{replies} replies in place of the deployed version" in caplog.text


def test_slots_are_few_and_one_with_a_stream_stays(
    deployments: Deployments, backend: LocalBackend, publish: Callable[..., ModelVersion]
) -> None:
    deployments.start()
    base = deployments.current().id
    _, stream = deployments.stream(HELLO, SAMPLING)  # holds its slot from here on, begun or not
    versions = [publish() for _ in range(MOST)]
    for version in versions:
        deployments.deploy(version.name, by="ada", why="next")
        assert len(backend.loaded()) <= MOST
    assert set(backend.loaded()) == {base, *(version.id for version in versions[1:])}
    assert stream.end.finish_reason == "length"
    deployments.deploy(versions[0].name, by="ada", why="again")
    # Before it there was the base; of the others the one that was deployed first is gone.
    assert set(backend.loaded()) == {base, versions[0].id, *(version.id for version in versions[2:])}
    deployments.deploy(versions[1].name, by="ada", why="again")
    assert set(backend.loaded()) == {version.id for version in versions}


def test_a_version_that_is_named_replies_beside_the_deployed_one(
    deployments: Deployments, backend: LocalBackend, publish: Callable[..., ModelVersion]
) -> None:
    deployments.start()
    versions = [publish() for _ in range(MOST + 1)]
    texts = {reply(deployments)[1]}
    for version in versions:
        served, stream = deployments.stream(HELLO, SAMPLING, version_id=version.id)
        assert served.name == version.name
        texts.add(stream.end.content)
        assert len(backend.loaded()) <= MOST
    assert len(texts) == len(versions) + 1
    assert reply(deployments)[0] == "v1"
    held = [deployments.stream(HELLO, SAMPLING, version_id=one.id)[1] for one in versions[: MOST - 1]]
    with pytest.raises(Busy, match=versions[-1].name):
        deployments.stream(HELLO, SAMPLING, version_id=versions[-1].id)
    assert reply(deployments)[0] == "v1"
    for stream in held:
        assert stream.end.finish_reason == "length"
    assert deployments.stream(HELLO, SAMPLING, version_id=versions[-1].id)[1].end.content in texts


def test_twenty_swaps_under_load_drop_no_stream(
    deployments: Deployments, publish: Callable[..., ModelVersion]
) -> None:
    greedy = Sampling(temperature=0, top_p=1, max_new_tokens=64)
    deployments.start()
    names = ["v1", *(publish().name for _ in range(MOST))]  # one too many: each swap builds a slot
    alone = {}
    for name in names:
        deployments.deploy(name, by="ada", why="alone")
        alone[name] = deployments.stream(HELLO, greedy)[1].end.content
    assert len(set(alone.values())) == len(names)
    done = threading.Event()
    gc.freeze()  # as a server does

    def chat(_person: int) -> tuple[list[tuple[str, str]], float]:
        replies, longest = [], 0.0
        while not done.is_set():
            version, stream = deployments.stream(HELLO, greedy)
            arrivals = [time.monotonic() for _ in stream]
            longest = max(longest, *(b - a for a, b in itertools.pairwise(arrivals)))
            replies.append((version.name, stream.end.content))
        return replies, longest

    with ThreadPoolExecutor(6) as pool:
        people = [pool.submit(chat, number) for number in range(6)]
        try:
            for number in range(20):
                deployments.deploy(names[number % len(names)], by="ada", why="next")
                before = deployments.current().id
                assert deployments.stream(HELLO, greedy)[1].end.content == alone[names[number % len(names)]]
                assert deployments.current().id == before
        finally:
            done.set()
            gc.unfreeze()
    replies = [reply for person in people for reply in person.result()[0]]
    assert {name for name, _ in replies} == set(names)
    assert all(text == alone[name] for name, text in replies)
    longest = max(person.result()[1] for person in people)
    sys.stdout.write(f"{len(replies)} replies, longest gap {1000 * longest:.0f} ms\n")


def test_rolling_back_loads_nothing(
    deployments: Deployments,
    artifacts: Artifacts,
    backend: LocalBackend,
    publish: Callable[..., ModelVersion],
) -> None:
    deployments.start()
    first, second = publish(), publish()
    deployments.deploy(first.name, by="ada", why="good")
    _, text = reply(deployments)
    deployments.deploy(second.name, by="ada", why="better?")
    slots = backend.slots
    assert first.path is not None
    shutil.rmtree(artifacts.folder(first.path))
    began = time.monotonic()
    deployments.roll_back(by="ada", why="no")
    assert reply(deployments) == (first.name, text)
    sys.stdout.write(f"rolled back in {1000 * (time.monotonic() - began):.0f} ms, reply included\n")
    assert all(backend.slots[version_id] is slot for version_id, slot in slots.items())
    assert backend.slots.keys() == slots.keys()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_rolling_back_after_a_restart_loads_nothing_either(
    deployments: Deployments,
    database: Database,
    artifacts: Artifacts,
    backend: LocalBackend,
    publish: Callable[..., ModelVersion],
) -> None:
    first, second = publish(), publish()
    move_alias(database, first.name)
    move_alias(database, second.name)
    deployments.start()
    assert deployments.current().name == second.name
    wait_until(lambda: first.id in backend.loaded(), 30)
    slot = backend.slots[first.id]
    assert first.path is not None
    shutil.rmtree(artifacts.folder(first.path))
    deployments.roll_back(by="ada", why="no")
    assert reply(deployments)[0] == first.name
    assert backend.slots[first.id] is slot


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("most", [2, 3])
def test_what_rolling_back_needs_is_loaded_however_long_it_was_not_used(
    database: Database,
    artifacts: Artifacts,
    backend: LocalBackend,
    publish: Callable[..., ModelVersion],
    most: int,
) -> None:
    deployments = Deployments(database, artifacts, backend, max_loaded_versions=most)
    deployments.start()
    try:
        for name in [publish().name for _ in range(3)] + ["v2"]:
            deployments.deploy(name, by="ada", why="next")
            assert len(backend.loaded()) <= most
        # Before v2 was first deployed there was v1, used longest ago of all.
        wait_until(lambda: "v1" in {slot.version.name for slot in backend.slots.values()}, 30)
        wait_until(lambda: len(backend.loaded()) == most, 30)
        deployments.roll_back(by="ada", why="no")
        assert reply(deployments)[0] == "v1"
    finally:
        deployments.stop()


def test_rejected_and_unknown_versions_are_refused(
    deployments: Deployments, database: Database, backend: LocalBackend, publish: Callable[..., ModelVersion]
) -> None:
    deployments.start()
    version = publish("rejected")
    with pytest.raises(Conflict, match="v2 is rejected"):
        deployments.deploy("v2", by="ada", why="hope")
    with pytest.raises(NotFound, match="v9"):
        deployments.deploy("v9", by="ada", why="hope")
    with pytest.raises(Conflict, match="nothing to roll back"):
        deployments.roll_back(by="ada", why="hope")
    assert version.id not in backend.loaded()
    assert alias(database) == "v1"
