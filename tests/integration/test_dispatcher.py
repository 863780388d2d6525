"""The dispatcher and the local executor: trainers are started, replaced when they die, and stopped."""

import shutil
from pathlib import Path

import pytest

from storage.db.database import Database
from storage.errors import BadSetting
from storage.registry import training_runs
from storage.settings import Settings, load_settings
from tests.support.databases import outage
from tests.support.live_server import wait_until
from tests.support.programs import ForkedExecutor
from tests.support.training_env import LONG, Build
from trainer.runs.dispatcher import Dispatcher
from trainer.runs.executors import LocalExecutor, child_environment, open_executor


def test_a_dispatcher_starts_trainers_and_replaces_the_dead(build: Build) -> None:
    env = build(**{**LONG, "lease_seconds": 600})
    env.vote(12)
    executor = ForkedExecutor(env.settings)
    dispatcher = Dispatcher(env.database, env.settings, executor)
    dispatcher.start()
    run_id = env.request()
    try:
        wait_until(lambda: len(env.checkpoints(run_id)) > 1, 120, lambda: env.log(run_id))
        executor.kill(run_id)
        # Its lease has ten minutes to go, but the dispatcher saw its own child die.
        wait_until(lambda: env.run(run_id).attempts == 2, 60, lambda: env.log(run_id))
        wait_until(lambda: env.run(run_id).state == "succeeded", 120, lambda: env.log(run_id))
    finally:
        dispatcher.stop(terminate=True)
    assert not executor.alive(run_id)


def test_a_cancelled_trainer_that_loads_a_model_of_minutes_is_killed(
    build: Build, tiny_model: Path, tmp_path: Path
) -> None:
    large = shutil.copytree(tiny_model, tmp_path / "large")
    with (large / "more.safetensors").open("wb") as file:
        file.truncate(500 * 10**9)  # no bytes on the disk, and minutes to hash
    env = build(model=str(large))
    env.vote(12)
    dispatcher = Dispatcher(env.database, env.settings, LocalExecutor(env.settings), cancel_grace_seconds=1.0)
    dispatcher.start()
    run_id = env.request()
    try:
        wait_until(lambda: env.run(run_id).progress.get("phase") == "tokenising", 120)
        with env.database.write() as session:
            training_runs.cancel_run(session, run_id)
        wait_until(lambda: env.run(run_id).state == "cancelled", 60, lambda: env.log(run_id))
    finally:
        dispatcher.stop(terminate=True)


def test_a_trainer_that_cannot_begin_fails_the_run(build: Build, tmp_path: Path) -> None:
    env = build(max_attempts=2)
    env.vote(12)
    broken = env.settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/absent/file.db"})
    dispatcher = Dispatcher(env.database, env.settings, ForkedExecutor(broken))
    dispatcher.start()
    run_id = env.request()
    try:
        wait_until(lambda: env.run(run_id).state == "failed", 120, lambda: env.log(run_id))
    finally:
        dispatcher.stop(terminate=True)
    assert "before it began" in (env.run(run_id).reason or "")
    assert "absent" in env.log(run_id)


class NeverStarts(LocalExecutor):
    """An executor whose cluster is away."""

    def start(self, run_id: str) -> str:
        raise ConnectionError("no cluster")


def test_an_executor_that_cannot_start_a_trainer_fails_the_run(build: Build) -> None:
    env = build(max_attempts=2)
    dispatcher = Dispatcher(env.database, env.settings, NeverStarts(env.settings))
    dispatcher.start()
    run_id = env.request()
    try:
        wait_until(lambda: env.run(run_id).state == "failed", 60)
    finally:
        dispatcher.stop(terminate=True)
    assert "before it began" in (env.run(run_id).reason or "")


def test_a_trainer_sees_exactly_the_settings_of_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path, schedule="", learning_rate=3.3e-5, auto_deploy=False, port=0)
    monkeypatch.setenv("THUMBLOOP_BETA", "0.9")  # set after the server read its own
    environment = child_environment(settings)
    (tmp_path / "thumbloop.toml").write_text("beta = 0.7")
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


class OtherExecutor(LocalExecutor):
    """An executor of somebody else."""


def test_an_outage_of_the_database_is_logged_once(
    database: Database, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher = Dispatcher(database, settings, ForkedExecutor(settings))
    dispatcher.start()
    outage(database, "training_run")
    dispatcher.stop(terminate=False)
    assert [record.message for record in caplog.records] == [
        "Looking at the training queue failed; trying again."
    ]


def test_the_executor_is_a_setting(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, executor=f"{__name__}:OtherExecutor")
    assert isinstance(open_executor(settings), OtherExecutor)
    assert type(open_executor(load_settings(data_dir=tmp_path))) is LocalExecutor


@pytest.mark.parametrize("executor", ["kubernetes", "no.such.module:Executor", f"{__name__}:Missing"])
def test_an_executor_that_cannot_be_imported_is_refused(tmp_path: Path, executor: str) -> None:
    with pytest.raises(BadSetting, match="THUMBLOOP_EXECUTOR=.*Python can"):
        open_executor(load_settings(data_dir=tmp_path, executor=executor))
