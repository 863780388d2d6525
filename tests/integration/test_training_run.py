"""Training runs as they really are: a process of their own, SQLite, a tiny model, and sudden deaths."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import chats, model_versions, training_runs, users, votes
from storage.artifacts import Artifacts
from storage.database import Database, open_database
from storage.errors import LeaseLost
from storage.settings import Settings
from storage.tables import ModelVersion, TrainingRun
from tests.live_server import TEST_SETTINGS, wait_until
from trainer import attempt
from trainer.dispatcher import Dispatcher
from trainer.runners.local import LocalRunner, child_environment

# The gate is tested by itself; here it must not depend on what random weights happen to do.
LENIENT = {"gate_loss_tolerance": 1.0, "gate_auc_tolerance": 1.0}
LONG = {"epochs": 40, "checkpoint_steps": 2, "lease_seconds": 3}


class House:
    """A database with votes, and the trainers that were started for its run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database: Database = open_database(settings)
        self.artifacts = Artifacts(settings.data_dir)
        self.processes: list[subprocess.Popen[bytes]] = []

    def vote(self, count: int) -> list[str]:
        """That many chats of one reply each, every third voted down; returns the message ids."""
        with self.database.write() as session:
            base = model_versions.ensure_base(session, self.settings.model)
            person = users.create_anonymous(session)
            replies = []
            for number in range(count):
                chat = chats.create_chat(session, person.id, system_prompt="Be brief.")
                asked = chats.add_user_message(session, chat.id, f"What is {number} plus {number}?")
                reply = chats.begin_reply(session, chat.id, asked.id, model_version_id=base.id, sampling={})
                chats.finish_reply(
                    session,
                    reply.id,
                    content=f"It is {2 * number}, of course.",
                    state="complete",
                    finish_reason="stop",
                    token_ids=None,
                    timings={},
                )
                votes.cast_vote(session, user_id=person.id, message_id=reply.id, label=number % 3 != 0)
                replies.append(reply.id)
        return replies

    def request(self, **settings: Any) -> str:
        with self.database.write() as session:
            force = settings.pop("force", False)
            return training_runs.request_run(session, trigger="cli", force=force, settings=settings).id

    def start(self, run_id: str) -> subprocess.Popen[bytes]:
        with (self.artifacts.run_folder(run_id) / "train.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "trainer", "run", run_id],
                env=child_environment(self.settings),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def train(self, run_id: str) -> int:
        return self.start(run_id).wait(timeout=240)

    def start_and_reach_checkpoint(self, run_id: str) -> subprocess.Popen[bytes]:
        """A trainer in mid-training, with more than one checkpoint behind it."""
        process = self.start(run_id)
        folder = self.artifacts.run_folder(run_id)
        wait_until(
            lambda: process.poll() is not None or len(list(folder.glob("*/*/trainer_state.json"))) > 1,
            120,
            lambda: self.log(run_id),
        )
        assert process.poll() is None, self.log(run_id)
        return process

    def run(self, run_id: str) -> TrainingRun:
        with self.database.read() as session:
            return training_runs.get_run(session, run_id)

    def version(self, name: str) -> ModelVersion:
        with self.database.read() as session:
            return model_versions.get_version(session, name)

    def deployed(self) -> str:
        with self.database.read() as session:
            return model_versions.deployed_version(session).name

    def log(self, run_id: str) -> str:
        return (self.artifacts.run_folder(run_id) / "train.log").read_text()

    def checkpoints(self, run_id: str) -> list[Path]:
        return list(self.artifacts.run_folder(run_id).glob("checkpoints/checkpoint-*"))

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.database.close()


@pytest.fixture
def build(tmp_path: Path, tiny_model: Path) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def build(**settings: Any) -> House:
        values = {"data_dir": tmp_path / f"data-{len(houses)}", "model": str(tiny_model)}
        house = House(Settings(**{**TEST_SETTINGS, **LENIENT, **values, **settings}))  # type: ignore[arg-type]
        houses.append(house)
        return house

    yield build
    for house in houses:
        house.close()


def test_a_run_trains_publishes_and_deploys(build: Callable[..., House]) -> None:
    house = build(epochs=2)
    voted = house.vote(20)
    run_id = house.request(beta=0.2)
    assert house.train(run_id) == attempt.DONE, house.log(run_id)

    run = house.run(run_id)
    assert (run.state, run.attempts) == ("succeeded", 1), house.log(run_id)
    assert run.reason is not None
    assert run.reason.startswith("v2 is deployed.")
    assert house.deployed() == "v2"
    assert run.settings["beta"] == 0.2
    assert run.settings["precision"] == "fp32"
    assert run.snapshot is not None
    assert [message_id for message_id, _ in run.snapshot["votes"]] == voted
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
    assert version.metrics["training"]["steps"] == 8
    assert not house.checkpoints(run_id)
    assert house.train(run_id) == attempt.NOT_OURS


def test_too_few_votes_are_skipped_with_the_reason(build: Callable[..., House]) -> None:
    house = build(min_votes_per_class=5)
    house.vote(6)
    run_id = house.request()
    assert house.train(run_id) == attempt.DONE
    run = house.run(run_id)
    assert run.state == "skipped"
    assert "at least 5 of each" in (run.reason or "")
    assert house.deployed() == "v1"


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


def test_a_killed_trainer_is_resumed_with_the_same_votes(build: Callable[..., House]) -> None:
    house = build(**LONG)
    house.vote(12)
    run_id = house.request()
    house.start_and_reach_checkpoint(run_id).kill()
    before = house.run(run_id)
    house.vote(3)  # after the snapshot: not for this run
    wait_until(lambda: _claimable(house), 30)
    assert house.train(run_id) == attempt.DONE, house.log(run_id)

    run = house.run(run_id)
    assert (run.state, run.attempts) == ("succeeded", 2), house.log(run_id)
    assert run.snapshot == before.snapshot
    assert "Resuming from checkpoint-" in house.log(run_id)
    assert run.metrics["training"]["resumed_from_step"] > 0


def test_votes_withdrawn_between_two_attempts_are_not_trained_on(build: Callable[..., House]) -> None:
    house = build(**LONG)
    (first, *_) = house.vote(12)
    run_id = house.request()
    house.start_and_reach_checkpoint(run_id).kill()
    with house.database.write() as session:
        chats.delete_chat(session, chats.get_message(session, first).chat_id)
    wait_until(lambda: _claimable(house), 30)
    assert house.train(run_id) == attempt.DONE, house.log(run_id)
    run = house.run(run_id)
    assert run.state == "succeeded"
    assert run.metrics["training"]["resumed_from_step"] == 0
    assert run.snapshot is not None
    assert first not in [message_id for message_id, _ in run.snapshot["votes"]]


def test_a_run_whose_trainers_always_die_fails(build: Callable[..., House]) -> None:
    house = build(**LONG, max_attempts=1)
    house.vote(12)
    run_id = house.request()
    house.start_and_reach_checkpoint(run_id).kill()
    wait_until(lambda: _claimable(house), 30)
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
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: _claimable(house), 30)
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


def test_a_dispatcher_starts_trainers_and_replaces_the_dead(build: Callable[..., House]) -> None:
    house = build(**{**LONG, "lease_seconds": 600})
    house.vote(12)
    runner = LocalRunner(house.settings)
    dispatcher = Dispatcher(house.database, house.settings, runner)
    dispatcher.start()
    run_id = house.request()
    try:
        wait_until(lambda: len(house.checkpoints(run_id)) > 1, 120, lambda: house.log(run_id))
        runner.kill(run_id)
        # Its lease has ten minutes to go, but the dispatcher saw its own child die.
        wait_until(lambda: house.run(run_id).attempts == 2, 60, lambda: house.log(run_id))
        wait_until(lambda: house.run(run_id).state == "succeeded", 120, lambda: house.log(run_id))
    finally:
        dispatcher.stop(terminate=True)
    assert not runner.alive(run_id)


def test_a_stopped_dispatcher_leaves_a_run_that_resumes(build: Callable[..., House]) -> None:
    house = build(**{**LONG, "epochs": 400})
    house.vote(12)
    runner = LocalRunner(house.settings)
    dispatcher = Dispatcher(house.database, house.settings, runner)
    dispatcher.start()
    run_id = house.request()
    wait_until(lambda: house.checkpoints(run_id), 120, lambda: house.log(run_id))
    dispatcher.stop(terminate=True)
    assert not runner.alive(run_id)
    assert house.run(run_id).state == "requested", house.log(run_id)
    assert house.checkpoints(run_id)


def test_a_trainer_that_cannot_begin_fails_the_run(build: Callable[..., House], tmp_path: Path) -> None:
    house = build(max_attempts=2)
    house.vote(12)
    broken = house.settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/absent/file.db"})
    dispatcher = Dispatcher(house.database, house.settings, LocalRunner(broken))
    dispatcher.start()
    run_id = house.request()
    try:
        wait_until(lambda: house.run(run_id).state == "failed", 120, lambda: house.log(run_id))
    finally:
        dispatcher.stop(terminate=True)
    assert "before it began" in (house.run(run_id).reason or "")
    assert "absent" in house.log(run_id)


def _claimable(house: House) -> bool:
    with house.database.read() as session:
        return training_runs.claimable_run(session) is not None
