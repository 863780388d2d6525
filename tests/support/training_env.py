"""A database with votes, and real trainer processes on it: what the tests of training runs stand on."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlmodel import select

from storage.chats import chats
from storage.db.database import Database, open_database
from storage.db.tables import ModelVersion, RunVote, TrainingRun
from storage.people import users
from storage.registry import model_versions, training_runs
from storage.registry.artifacts import Artifacts
from storage.registry.stored_artifacts import StoredArtifacts, open_artifacts
from storage.settings import Settings
from tests.support.live_server import TEST_SETTINGS, wait_until
from tests.support.programs import Program
from tests.support.rows import add_reply
from trainer.dataset.snapshot import take_snapshot
from trainer.dataset.tokenise import TokenisedExample, tokenise
from trainer.model.base_model import load_tokenizer, resolve
from trainer.runs.executors import child_environment

# The gate is tested by itself; here it must not depend on what random weights happen to do.
LENIENT = {"gate_loss_tolerance": 1.0, "gate_auc_tolerance": 1.0}
LONG = {"epochs": 20, "checkpoint_steps": 2, "lease_seconds": 3}


Build = Callable[..., "TrainingEnv"]


class TrainingEnv:
    """A database with votes, and the trainers that were started for its run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database: Database = open_database(settings)
        self.artifacts = Artifacts(settings.data_dir)
        self.processes: list[Program] = []

    def vote(self, count: int, liked: Sequence[str] = ()) -> list[str]:
        """That many chats of one reply each, every third voted down; returns the message ids.

        With `liked`, every third is voted up, and these are the texts of those.
        """
        with self.database.write() as session:
            base = model_versions.ensure_base(session, self.settings.model)
            person = users.create_anonymous(session)
            replies = []
            for number in range(count):
                chat = chats.create_chat(session, person.id, system_prompt="Be brief.")
                question, answer = f"What is {number} plus {number}?", f"It is {2 * number}, of course."
                label = (number % 3 == 0) if liked else (number % 3 != 0)
                if liked and label:
                    answer = liked[number % len(liked)]
                reply = add_reply(session, chat, question, answer, version_id=base.id, label=label)
                replies.append(reply.id)
        return replies

    def learned_from(self, run_id: str) -> set[str]:
        """The message ids of the votes in a run's lineage."""
        with self.database.read() as session:
            return set(session.exec(select(RunVote.message_id).where(RunVote.run_id == run_id)))

    def request(self, **settings: Any) -> str:
        with self.database.write() as session:
            force = settings.pop("force", False)
            return training_runs.request_run(session, trigger="cli", force=force, settings=settings).id

    def start(self, run_id: str, **settings: Any) -> Program:
        settings_there = self.settings.model_copy(update=settings)
        log = Artifacts(settings_there.data_dir).run_folder(run_id) / "train.log"
        environment = child_environment(settings_there)
        process = Program("trainer", "run", run_id, environment=environment, output=log)
        self.processes.append(process)
        return process

    def train(self, run_id: str) -> int:
        return self.start(run_id).wait(timeout=240)

    def start_and_reach_checkpoint(self, run_id: str) -> Program:
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

    def hold_second_process(self, run_id: str, step: int) -> Path:
        """Once a run has a checkpoint, keep its second process writing its part of that at `step` for ever.

        Returns that part, a pipe that nobody reads, when the first process has written its own.
        """
        folder = self.artifacts.run_folder(run_id) / "checkpoints"
        wait_until(lambda: list(folder.glob("*/trainer_state.json")), 120, lambda: self.log(run_id))
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir()
        os.mkfifo(checkpoint / "rng_state_1.pth")
        os.utime(checkpoint, (2**32, 2**32))  # the oldest ones are deleted
        wait_until((checkpoint / "rng_state_0.pth").exists, 120, lambda: self.log(run_id))
        return checkpoint / "rng_state_1.pth"

    def run(self, run_id: str) -> TrainingRun:
        with self.database.read() as session:
            return training_runs.get_run(session, run_id)

    def version(self, name: str) -> ModelVersion:
        with self.database.read() as session:
            return model_versions.get_version(session, name)

    def deployed(self) -> str:
        with self.database.read() as session:
            return model_versions.deployed_version(session).name

    def rows_of(self, run_id: str) -> list[TokenisedExample]:
        """What the run trained on, in its order."""
        run = self.run(run_id)
        with self.database.read() as session:
            snapshot = take_snapshot(
                session, self.settings, moment=run.created_at, event_id=run.snapshot_event_id
            )
        tokenizer = load_tokenizer(resolve(self.settings))
        rows, _ = tokenise(tokenizer, snapshot.examples, max_length=self.settings.max_length)
        assert run.snapshot is not None
        return [row for row in rows if row.chat_id not in run.snapshot["held_out_chats"]]

    def log(self, run_id: str) -> str:
        return (self.artifacts.run_folder(run_id) / "train.log").read_text()

    def checkpoints(self, run_id: str) -> list[Path]:
        return list(self.artifacts.run_folder(run_id).glob("checkpoints/checkpoint-*"))

    def stored(self) -> StoredArtifacts:
        """What the artifact store has, which must be there."""
        artifacts = open_artifacts(self.settings, self.database, patience=0)
        assert isinstance(artifacts, StoredArtifacts)
        return artifacts

    def has_stored_checkpoint(self, run_id: str) -> bool:
        store, place = self.stored().store, f"runs/{run_id}"
        folders = (
            f"{place}/{rows}/{step}" for rows in store.names(place) for step in store.names(f"{place}/{rows}")
        )
        return any(store.manifest(folder) for folder in folders)

    def claimable(self) -> bool:
        with self.database.read() as session:
            return training_runs.claimable_run(session) is not None

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.database.close()


@contextmanager
def training_envs(folder: Path, model: Path) -> Iterator[Callable[..., TrainingEnv]]:
    """Builds installations that differ in their settings; at the end, whatever still trains is killed."""
    built: list[TrainingEnv] = []

    def build(**settings: Any) -> TrainingEnv:
        values = {"data_dir": folder / f"data-{len(built)}", "model": str(model)}
        env = TrainingEnv(Settings(**{**TEST_SETTINGS, **LENIENT, **values, **settings}))  # type: ignore[arg-type]
        built.append(env)
        return env

    yield build
    for env in built:
        env.close()
