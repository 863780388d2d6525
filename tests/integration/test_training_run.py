"""Training runs as they really are: a process of their own, SQLite, a tiny model, and sudden deaths."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from storage.chats import chats
from storage.errors import LeaseLost
from storage.imports.importer import import_file
from storage.registry import model_versions, training_runs
from storage.registry.device_lock import DeviceLock
from tests.support.live_server import wait_until
from tests.support.rated_files import rated, write_rows
from tests.support.training_env import LONG, House, houses
from trainer.runs import attempt


@pytest.fixture
def build(tmp_path: Path, tiny_model: Path) -> Iterator[Callable[..., House]]:
    with houses(tmp_path, tiny_model) as build:
        yield build


def test_a_run_trains_publishes_and_deploys(build: Callable[..., House]) -> None:
    reported = [name for name in ("tensorboard",) if find_spec("tensorboardX")]
    house = build(epochs=2, report_to=reported)
    voted = house.vote(20)
    run_id = house.request(beta=0.2)
    assert house.train(run_id) == attempt.DONE, house.log(run_id)
    events = list((house.settings.data_dir / "runs" / run_id / "tensorboard").glob("*"))
    assert [one.read_bytes().count(b"train/loss") for one in events] == [8] * len(reported), (
        "one of each step"
    )

    run = house.run(run_id)
    assert (run.state, run.attempts) == ("succeeded", 1), house.log(run_id)
    assert run.reason is not None
    assert run.reason.startswith("v2 is deployed.")
    assert house.deployed() == "v2"
    assert run.settings["beta"] == 0.2
    assert run.settings["precision"] == "fp32"
    assert run.snapshot is not None
    assert house.learned_from(run_id) == set(voted)
    assert run.snapshot["counts"] == {"up": 13, "down": 7, "people": 1}
    assert run.snapshot["held_out_chats"]

    version = house.version("v2")
    folder = house.artifacts.verify(version.path or "", version.files)
    assert sorted(version.files) == [
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "lineage.json")
    ]
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["snapshot"]["sha256"] == run.snapshot["sha256"]
    assert set(lineage["message_ids"]) < set(voted), "held-out votes are not trained on"
    assert str(house.settings.data_dir) not in (folder / "adapter_config.json").read_text()
    assert version.metrics["candidate"]["n_desirable"] > 0
    assert version.metrics["deployed"]["margin"] == 0, "the base is its own reference"
    assert version.metrics["training"]["steps"] == version.metrics["plan"]["steps"] == 8
    plan = run.metrics["plan"]
    assert plan["rows"] + plan["held_out"] == 20
    assert plan["expected_seconds"] > 0
    said = house.log(run_id)
    assert f"{plan['rows']} examples to train on ({plan['up']} up, {plan['down']} down)" in said
    assert said.index("That will take about") < said.index("Step 1 of 8")
    card = (folder / "README.md").read_text()
    assert f"{plan['up']} desirable" in card
    assert run.snapshot["sha256"] in card
    assert not house.checkpoints(run_id)
    assert house.train(run_id) == attempt.NOT_OURS


def test_votes_that_contradict_each_other_are_left_out(build: Callable[..., House], tmp_path: Path) -> None:
    house = build()
    house.vote(11)
    import_file(
        house.database, write_rows(tmp_path / "a.jsonl", [rated(0, label=up) for up in (True, False)])
    )
    run_id = house.request()
    assert house.train(run_id) == attempt.DONE, house.log(run_id)
    metrics = house.run(run_id).metrics
    assert metrics["plan"]["rows"] + metrics["plan"]["held_out"] == 11
    ((reason, count),) = metrics["dropped"].items()
    assert count == 2
    (one, other) = (name.split(" (unlike ") for name in metrics["plan"]["dropped_rows"][reason])
    assert [*one, *other] == [one[0], f"{other[0]})", other[0], f"{one[0]})"]
    assert f"Left out 2, because {reason}" in house.log(run_id)


def test_too_few_votes_are_skipped_with_the_reason(build: Callable[..., House]) -> None:
    house = build(min_votes_per_class=5)
    house.vote(6)
    run_id = house.request()
    assert house.train(run_id) == attempt.DONE
    run = house.run(run_id)
    assert run.state == "skipped"
    assert "at least 5 of each" in (run.reason or "")
    assert house.deployed() == "v1"


def test_all_weights_cannot_be_served_and_so_are_not_trained(build: Callable[..., House]) -> None:
    house = build(tuning="full")
    house.vote(6)
    run_id = house.request()
    assert house.train(run_id) == attempt.FAILED
    assert "set lora or qlora" in (house.run(run_id).reason or "")


def test_force_trains_on_few_votes_but_not_on_one_kind(build: Callable[..., House]) -> None:
    house = build(min_votes_per_class=50)
    house.vote(1)
    run_id = house.request(force=True)
    assert house.train(run_id) == attempt.DONE
    assert house.run(run_id).state == "skipped"
    assert "KTO needs both kinds" in (house.run(run_id).reason or "")

    house.vote(3)
    run_id = house.request(force=True)
    assert house.train(run_id) == attempt.DONE, house.log(run_id)
    run = house.run(run_id)
    assert run.state == "succeeded"
    assert "waits for an admin" in (run.reason or "")
    assert house.version("v2").state == "candidate"
    assert house.deployed() == "v1"


def test_a_killed_trainer_is_resumed_to_the_weights_of_an_uninterrupted_one(
    build: Callable[..., House],
) -> None:
    house = build(**LONG)
    house.vote(12)
    whole = house.request()
    assert house.train(whole) == attempt.DONE, house.log(whole)
    run_id = house.request()
    house.start_and_reach_checkpoint(run_id).kill()
    before = house.run(run_id)
    house.vote(3)  # after the snapshot: not for this run
    wait_until(house.claimable, 30)
    assert house.train(run_id) == attempt.DONE, house.log(run_id)

    run = house.run(run_id)
    assert (run.state, run.attempts) == ("succeeded", 2), house.log(run_id)
    assert run.snapshot == before.snapshot
    assert "Resuming from checkpoint-" in house.log(run_id)
    assert run.metrics["training"]["resumed_from_step"] > 0
    assert run.metrics["training"]["engine"] == "shared-prefix"
    expected, resumed = (
        load_file(house.artifacts.folder(house.version(name).path or "") / "adapter_model.safetensors")
        for name in ("v2", "v3")
    )
    for name, weight in expected.items():
        torch.testing.assert_close(resumed[name], weight, rtol=1e-5, atol=1e-7)


Withdrawn = Callable[..., tuple[House, str, str]]


@pytest.fixture
def withdrawn(build: Callable[..., House]) -> Withdrawn:
    """A run that was killed after a checkpoint, its id, and a reply whose chat is deleted since."""

    def withdrawn(**settings: Any) -> tuple[House, str, str]:
        house = build(**LONG, **settings)
        (first, *_) = house.vote(12)
        run_id = house.request()
        house.start_and_reach_checkpoint(run_id).kill()
        with house.database.write() as session:
            chats.delete_chat(session, chats.get_message(session, first).chat_id)
        wait_until(house.claimable, 30)
        return house, run_id, first

    return withdrawn


def finish_from_the_start(house: House, run_id: str) -> None:
    assert house.train(run_id) == attempt.DONE, house.log(run_id)
    run = house.run(run_id)
    assert run.state == "succeeded"
    assert run.metrics["training"]["resumed_from_step"] == 0


def test_votes_withdrawn_between_two_attempts_are_not_trained_on(withdrawn: Withdrawn) -> None:
    house, run_id, reply = withdrawn()
    finish_from_the_start(house, run_id)
    assert reply not in house.learned_from(run_id)


def test_an_attempt_that_starts_again_and_dies_before_its_first_step_leaves_no_old_checkpoint(
    withdrawn: Withdrawn,
) -> None:
    house, run_id, reply = withdrawn(device_mode="exclusive")
    server = DeviceLock(house.settings.data_dir)
    wait_until(server.use)
    second = house.start(run_id)
    waiting = "waiting for the server to make way"
    wait_until(lambda: house.run(run_id).progress.get("phase") == waiting, 60, lambda: house.log(run_id))
    second.kill()
    server.close()
    wait_until(house.claimable, 30)
    finish_from_the_start(house, run_id)
    assert reply not in house.learned_from(run_id)


def test_a_run_whose_trainers_always_die_fails(build: Callable[..., House]) -> None:
    house = build(**LONG, max_attempts=1)
    house.vote(12)
    run_id = house.request()
    house.start_and_reach_checkpoint(run_id).kill()
    wait_until(house.claimable, 30)
    assert house.train(run_id) == attempt.NOT_OURS
    run = house.run(run_id)
    assert run.state == "failed"
    assert "died" in (run.reason or "")
    assert house.deployed() == "v1"


def test_cancel_stops_a_running_trainer(build: Callable[..., House]) -> None:
    house = build(**LONG)
    house.vote(12)
    run_id = house.request()
    process = house.start_and_reach_checkpoint(run_id)
    with house.database.write() as session:
        training_runs.cancel_run(session, run_id)
    assert process.wait(timeout=60) == attempt.DONE
    assert house.run(run_id).state == "cancelled"
    assert not house.checkpoints(run_id)
    assert house.deployed() == "v1"


def test_a_run_is_cancelled_and_released_while_it_reads_a_model_of_minutes(
    build: Callable[..., House], tiny_model: Path, tmp_path: Path
) -> None:
    large = shutil.copytree(tiny_model, tmp_path / "large")
    with (large / "more.safetensors").open("wb") as file:
        file.truncate(500 * 10**9)  # no bytes on the disk, and minutes to hash
    house = build(model=str(large))
    house.vote(12)
    run_id = house.request()

    def begin() -> Popen[bytes]:
        process = house.start(run_id)
        wait_until(lambda: "Training from the start" in house.log(run_id), 120, lambda: house.log(run_id))
        return process

    process = begin()
    process.terminate()
    assert process.wait(timeout=60) == attempt.RELEASED
    log = house.artifacts.run_folder(run_id) / "train.log"
    log.write_text("")
    process = begin()
    with house.database.write() as session:
        training_runs.cancel_run(session, run_id)
    assert process.wait(timeout=60) == attempt.DONE
    assert house.run(run_id).state == "cancelled"


def test_sigterm_releases_the_run_with_its_last_step(build: Callable[..., House]) -> None:
    house = build(**{**LONG, "checkpoint_steps": 1000, "epochs": 200})
    house.vote(12)
    run_id = house.request()
    process = house.start(run_id)
    wait_until(lambda: house.run(run_id).progress.get("step", 0) > 2, 120, lambda: house.log(run_id))
    process.terminate()
    assert process.wait(timeout=60) == attempt.RELEASED
    run = house.run(run_id)
    assert (run.state, run.attempts) == ("requested", 0), house.log(run_id)
    (checkpoint,) = house.checkpoints(run_id)
    with house.database.write() as session:
        training_runs.cancel_run(session, run_id)
    assert int(checkpoint.name.removeprefix("checkpoint-")) > 2


def test_a_trainer_that_was_given_up_for_dead_publishes_nothing(build: Callable[..., House]) -> None:
    house = build(**LONG)
    house.vote(12)
    run_id = house.request()
    process = house.start_and_reach_checkpoint(run_id)
    with house.database.write():  # so that it is not stopped in the middle of a heartbeat, with SQLite's lock
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    wait_until(house.claimable, 30)
    with house.database.write() as session:
        successor = training_runs.claim_run(
            session, run_id, owner="successor", lease_seconds=600, max_attempts=3
        )
    assert successor is not None
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=120) == attempt.NOT_OURS, house.log(run_id)
    assert house.run(run_id).owner == "successor"
    with house.database.read() as session:
        assert model_versions.version_of_run(session, run_id) is None
    with pytest.raises(LeaseLost), house.database.write() as session:
        model_versions.publish_version(
            session,
            run_id=run_id,
            fence=successor.fence - 1,
            base_model=house.settings.model,
            path="adapters/x",
            sha256="0",
            files={},
            metrics={},
        )


def test_a_training_that_diverges_fails_with_a_reason(build: Callable[..., House]) -> None:
    house = build(learning_rate=1e30, epochs=5)
    house.vote(12)
    run_id = house.request()
    assert house.train(run_id) == attempt.FAILED
    run = house.run(run_id)
    assert run.state == "failed"
    assert "THUMBLOOP_LEARNING_RATE" in (run.reason or ""), run.reason
    assert house.deployed() == "v1"
