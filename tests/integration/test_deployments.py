"""The alias in the database and the slots in the backend, with real adapters on a tiny model."""

import itertools
import logging
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.serving.reply import Sampling
from storage.errors import Busy, Conflict, NotFound
from storage.registry import model_versions
from tests.support.chat_env import HELLO, SAMPLING, MakeServing, ServingEnv, alias, damage, move_alias, reply
from tests.support.live_server import wait_until

MOST = 4
LONG = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=900, seed=3)


def test_a_deployed_version_answers_next_and_running_streams_end_on_theirs(serving: ServingEnv) -> None:
    serving.deployments.start()
    name, by_base = reply(serving.deployments)
    assert name == "v1"
    _, alone = serving.deployments.stream(HELLO, LONG)
    whole = alone.end.content
    _, running = serving.deployments.stream(HELLO, LONG)
    deltas = iter(running)
    text = next(deltas)
    serving.publish()
    assert serving.deployments.deploy("v2", by="ada", why="better").name == "v2"
    name, by_tuned = reply(serving.deployments)
    assert name == "v2"
    assert by_tuned != by_base
    assert text + "".join(deltas) == whole
    assert serving.deployments.roll_back(by="ada", why="worse").name == "v1"
    assert reply(serving.deployments) == ("v1", by_base)
    with serving.database.read() as session:
        history = [(row.by, row.why) for row in model_versions.deployments(session)]
    assert history[:2] == [("ada", "worse"), ("ada", "better")]


def test_the_first_reply_after_the_alias_moved_is_by_the_new_version(serving: ServingEnv) -> None:
    serving.deployments.start()
    serving.publish()
    move_alias(serving.database, "v2")
    with ThreadPoolExecutor(8) as pool:
        assert {version.name for version in pool.map(lambda _: serving.deployments.current(), range(8))} == {
            "v2"
        }
    assert reply(serving.deployments)[0] == "v2"


def test_the_watcher_builds_the_slot_before_anyone_asks(serving: ServingEnv) -> None:
    serving.deployments.start()
    version = serving.publish()
    move_alias(serving.database, "v2")
    wait_until(lambda: version.id in serving.backend.loaded(), 30)


def test_an_alias_on_a_damaged_adapter_is_told_once_and_the_old_version_keeps_replying(
    serving: ServingEnv, caplog: pytest.LogCaptureFixture
) -> None:
    serving.deployments.start()
    serving.publish()
    serving.deployments.deploy("v2", by="ada", why="good")
    file = damage(serving.artifacts, serving.publish())
    with caplog.at_level(logging.ERROR, "thumbloop.serving"):
        move_alias(serving.database, "v3")
        assert [reply(serving.deployments)[0] for _ in range(3)] == ["v2"] * 3
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "v3 is deployed but cannot be served, so v2 keeps replying" in messages[0]
    file.write_bytes(file.read_bytes()[:-1])
    move_alias(serving.database, "v2")
    assert reply(serving.deployments)[0] == "v2"
    move_alias(serving.database, "v3")  # tried again, and good this time
    assert reply(serving.deployments)[0] == "v3"


@pytest.mark.parametrize(("damaged", "replies"), [(["v3"], "v2"), (["v2", "v3"], "v1")])
def test_a_start_with_a_damaged_deployed_version_falls_back_loudly(
    serving: ServingEnv, caplog: pytest.LogCaptureFixture, damaged: list[str], replies: str
) -> None:
    for version in (serving.publish(), serving.publish()):
        move_alias(serving.database, version.name)
        if version.name in damaged:
            damage(serving.artifacts, version)
    with caplog.at_level(logging.ERROR, "thumbloop.serving"):
        serving.deployments.start()
    assert reply(serving.deployments)[0] == replies
    assert alias(serving.database) == "v3"
    assert "v3 is deployed but cannot be served" in caplog.text
    assert f"{replies} replies in place of the deployed version" in caplog.text


def test_slots_are_few_and_one_with_a_stream_stays(serving: ServingEnv) -> None:
    serving.deployments.start()
    base = serving.deployments.current().id
    _, stream = serving.deployments.stream(HELLO, SAMPLING)  # holds its slot from here on, begun or not
    versions = [serving.publish() for _ in range(MOST)]
    for version in versions:
        serving.deployments.deploy(version.name, by="ada", why="next")
        assert len(serving.backend.loaded()) <= MOST
    assert set(serving.backend.loaded()) == {base, *(version.id for version in versions[1:])}
    assert stream.end.finish_reason == "length"
    serving.deployments.deploy(versions[0].name, by="ada", why="again")
    # Before it there was the last one, which rolling back needs.
    assert {versions[0].id, versions[-1].id} <= set(serving.backend.loaded())
    serving.deployments.deploy(versions[1].name, by="ada", why="again")
    assert {versions[1].id, versions[0].id} <= set(serving.backend.loaded())
    assert len(serving.backend.loaded()) <= MOST


def test_a_version_that_is_named_replies_beside_the_deployed_one(serving: ServingEnv) -> None:
    serving.deployments.start()
    versions = [serving.publish() for _ in range(MOST + 1)]
    texts = {reply(serving.deployments)[1]}
    for version in versions:
        served, stream = serving.deployments.stream(HELLO, SAMPLING, version_id=version.id)
        assert served.name == version.name
        texts.add(stream.end.content)
        assert len(serving.backend.loaded()) <= MOST
    assert len(texts) == len(versions) + 1
    assert reply(serving.deployments)[0] == "v1"
    held = [serving.deployments.stream(HELLO, SAMPLING, version_id=one.id)[1] for one in versions[: MOST - 1]]
    with pytest.raises(Busy, match=versions[-1].name):
        serving.deployments.stream(HELLO, SAMPLING, version_id=versions[-1].id)
    assert reply(serving.deployments)[0] == "v1"
    for stream in held:
        assert stream.end.finish_reason == "length"
    assert serving.deployments.stream(HELLO, SAMPLING, version_id=versions[-1].id)[1].end.content in texts


def test_ten_swaps_under_load_drop_no_stream(serving: ServingEnv) -> None:
    greedy = Sampling(temperature=0, top_p=1, max_new_tokens=64)
    serving.deployments.start()
    names = ["v1", *(serving.publish().name for _ in range(MOST))]  # one too many: each swap builds a slot
    alone = {}
    for name in names:
        serving.deployments.deploy(name, by="ada", why="alone")
        alone[name] = serving.deployments.stream(HELLO, greedy)[1].end.content
    assert len(set(alone.values())) == len(names)
    done = threading.Event()

    def chat(_person: int) -> tuple[list[tuple[str, str]], float]:
        replies, longest = [], 0.0
        while not done.is_set():
            version, stream = serving.deployments.stream(HELLO, greedy)
            arrivals = [time.monotonic() for _ in stream]
            longest = max(longest, *(b - a for a, b in itertools.pairwise(arrivals)))
            replies.append((version.name, stream.end.content))
        return replies, longest

    with ThreadPoolExecutor(6) as pool:
        people = [pool.submit(chat, number) for number in range(6)]
        try:
            for number in range(10):
                serving.deployments.deploy(names[number % len(names)], by="ada", why="next")
                before = serving.deployments.current().id
                assert (
                    serving.deployments.stream(HELLO, greedy)[1].end.content
                    == alone[names[number % len(names)]]
                )
                assert serving.deployments.current().id == before
        finally:
            done.set()
    replies = [reply for person in people for reply in person.result()[0]]
    assert {name for name, _ in replies} == set(names)
    assert all(text == alone[name] for name, text in replies)
    longest = max(person.result()[1] for person in people)
    sys.stdout.write(f"{len(replies)} replies, longest gap {1000 * longest:.0f} ms\n")


def test_rolling_back_loads_nothing(serving: ServingEnv) -> None:
    serving.deployments.start()
    first, second = serving.publish(), serving.publish()
    serving.deployments.deploy(first.name, by="ada", why="good")
    _, text = reply(serving.deployments)
    serving.deployments.deploy(second.name, by="ada", why="better?")
    slots = serving.backend.slots
    assert first.path is not None
    shutil.rmtree(serving.artifacts.folder(first.path))
    began = time.monotonic()
    serving.deployments.roll_back(by="ada", why="no")
    assert reply(serving.deployments) == (first.name, text)
    sys.stdout.write(f"rolled back in {1000 * (time.monotonic() - began):.0f} ms, reply included\n")
    assert all(serving.backend.slots[version_id] is slot for version_id, slot in slots.items())
    assert serving.backend.slots.keys() == slots.keys()


def test_rolling_back_after_a_restart_loads_nothing_either(serving: ServingEnv) -> None:
    first, second = serving.publish(), serving.publish()
    move_alias(serving.database, first.name)
    move_alias(serving.database, second.name)
    serving.deployments.start()
    assert serving.deployments.current().name == second.name
    wait_until(lambda: first.id in serving.backend.loaded(), 30)
    slot = serving.backend.slots[first.id]
    assert first.path is not None
    shutil.rmtree(serving.artifacts.folder(first.path))
    serving.deployments.roll_back(by="ada", why="no")
    assert reply(serving.deployments)[0] == first.name
    assert serving.backend.slots[first.id] is slot


@pytest.mark.parametrize("most", [2, 3])
def test_what_rolling_back_needs_is_loaded_however_long_it_was_not_used(
    make_serving: MakeServing, most: int
) -> None:
    serving = make_serving(most)
    serving.deployments.start()
    for name in [serving.publish().name for _ in range(3)]:
        serving.deployments.deploy(name, by="ada", why="next")
        assert len(serving.backend.loaded()) <= most
    serving.deployments.roll_back(by="ada", why="no")
    # Before v3 there was v2, used longest ago of these.
    wait_until(lambda: "v2" in {slot.version.name for slot in serving.backend.slots.values()}, 30)
    wait_until(lambda: len(serving.backend.loaded()) == most, 30)
    serving.deployments.roll_back(by="ada", why="no")
    assert reply(serving.deployments)[0] == "v2"


def test_rejected_and_unknown_versions_are_refused(serving: ServingEnv) -> None:
    serving.deployments.start()
    version = serving.publish("rejected")
    with pytest.raises(Conflict, match="v2 is rejected"):
        serving.deployments.deploy("v2", by="ada", why="hope")
    with pytest.raises(NotFound, match="v9"):
        serving.deployments.deploy("v9", by="ada", why="hope")
    with pytest.raises(Conflict, match="nothing to roll back"):
        serving.deployments.roll_back(by="ada", why="hope")
    assert version.id not in serving.backend.loaded()
    assert alias(serving.database) == "v1"
