"""Trainers as jobs of Slurm: real ones in submitit's own local cluster, and what Slurm's programs hear."""

import os
import signal
import stat
from operator import attrgetter
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("submitit")

from storage.errors import BadSetting
from storage.registry import training_runs
from storage.settings import Settings, load_settings
from tests.support.live_server import wait_until
from tests.support.training_env import LONG, Build, TrainingEnv
from tests.support.two_blocks import assert_resumed_with_the_loss_of_one_process
from trainer.runs.dispatcher import Dispatcher
from trainer.runs.executors import open_executor
from trainer.runs.slurm import SlurmExecutor

HERE = {"executor": "slurm", "slurm": {"cluster": "local"}}


def jobs(env: TrainingEnv, run_id: str) -> list[int]:
    """The ids of the run's jobs; in submitit's local cluster they are those of processes."""
    folder = env.artifacts.run_folder(run_id) / "jobs"
    files = sorted(folder.glob("*_0_log.out"), key=lambda file: file.stat().st_ctime_ns)
    return [int(file.name.removesuffix("_0_log.out")) for file in files]


def started(env: TrainingEnv, **how: Any) -> Dispatcher:
    executor = SlurmExecutor(env.settings, ask_seconds=0)
    dispatcher = Dispatcher(env.database, env.settings, executor, **how)
    dispatcher.start()
    return dispatcher


def in_mid_training(env: TrainingEnv, run_id: str) -> psutil.Process:
    wait_until(lambda: env.checkpoints(run_id), 120, lambda: env.log(run_id))
    (trainer,) = psutil.Process(jobs(env, run_id)[-1]).children()
    return trainer


def test_a_run_outlives_the_server_and_the_time_limit_of_its_job(build: Build) -> None:
    env = build(**LONG, **HERE)
    env.vote(12)
    dispatcher = started(env)
    run_id = env.request()
    trainer = in_mid_training(env, run_id)
    dispatcher.stop(terminate=True)
    assert trainer.is_running()

    dispatcher = started(env)
    try:
        trainer.send_signal(signal.SIGUSR2)  # what a cluster sends before a job's time is over
        wait_until(lambda: env.run(run_id).finished_at, 120, lambda: env.log(run_id))
    finally:
        dispatcher.stop(terminate=True)
    assert (env.run(run_id).state, env.deployed()) == ("succeeded", "v2"), env.log(run_id)
    assert env.run(run_id).attempts == 1
    assert len(jobs(env, run_id)) == 2
    log = env.log(run_id)
    assert "Stopped as asked" in log
    assert "Resuming from checkpoint" in log
    assert f"Job {jobs(env, run_id)[0]} has ended." in log


@pytest.mark.skipif(os.environ.get("THUMBLOOP_TEST_CLUSTER") != "1", reason="for `make test-cluster`: slow")
def test_tasks_of_a_job_train_together_and_go_on_without_a_lost_one(build: Build, tmp_path: Path) -> None:
    """Submitit's own cluster has one node, so two tasks of it stand for two nodes."""
    two = {"slurm": {"cluster": "local", "tasks_per_node": 2}, "batch_size": 2, "hold_out_fraction": 1e-9}
    env = build(**LONG | HERE | two | {"epochs": 6, "lease_seconds": 60}, learning_rate=3e-4)
    env.vote(16)
    dispatcher = started(env)
    run_id = env.request()
    try:
        part = env.hold_second_process(run_id, 10)
        _, second = sorted(psutil.Process(jobs(env, run_id)[-1]).children(), key=attrgetter("pid"))
        second.kill()
        wait_until(lambda: len(jobs(env, run_id)) == 2, 60, lambda: env.log(run_id))
        part.unlink()
        part.touch()  # as far as it would have come
        wait_until(lambda: env.run(run_id).finished_at, 120, lambda: env.log(run_id))
    finally:
        dispatcher.stop(terminate=True)
    assert_resumed_with_the_loss_of_one_process(env, run_id, tmp_path / "one")


def test_a_cancelled_run_needs_no_other_job_when_its_own_is_killed(build: Build) -> None:
    env = build(**LONG, **HERE)
    env.vote(12)
    dispatcher = started(env)
    run_id = env.request()
    try:
        trainer = in_mid_training(env, run_id)
        trainer.suspend()  # so that it does not hear of the cancellation
        with env.database.write() as session:
            training_runs.cancel_run(session, run_id)
        trainer.kill()
        wait_until(lambda: env.run(run_id).state == "cancelled", 60, lambda: env.log(run_id))
    finally:
        dispatcher.stop(terminate=True)
    assert len(jobs(env, run_id)) == 1


def test_jobs_that_run_out_of_time_before_they_begin_fail_the_run(build: Build) -> None:
    second = 1 / 60
    env = build(executor="slurm", slurm={"cluster": "local", "local_timeout_min": second}, max_attempts=2)
    dispatcher = started(env)
    run_id = env.request()
    try:
        wait_until(lambda: env.run(run_id).state == "failed", 60, lambda: env.log(run_id))
    finally:
        dispatcher.stop(terminate=True)
    assert "before it began" in (env.run(run_id).reason or "")
    assert len(jobs(env, run_id)) == 2


class Cluster:
    """Slurm's programs, as a cluster has them in which no job ever starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tell("PENDING|Resources")
        state, calls = folder / "state", folder / "calls"
        for name, lines in {
            "srun": "",
            "sbatch": f"cp $1 {folder}/script; echo Submitted batch job 77; env > {folder}/environment",
            "squeue": f"cat {state}; test -s {state} || {{ echo Unable to contact slurmctld >&2; exit 1; }}",
            "scancel": f"echo $1 >> {calls}; echo 'CANCELLED|None' > {state}",
        }.items():
            program = folder / name
            program.write_text(f"#!/bin/sh\necho {name} $* >> {calls}\n{lines}\n")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def tell(self, state: str) -> None:
        (self.folder / "state").write_text(state)

    def calls(self, name: str) -> list[str]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if line.split()[0] == name]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Cluster(folder)


def test_a_job_that_never_starts_is_taken_back(build: Build, cluster: Cluster) -> None:
    parameters = {"slurm_partition": "gpu", "gpus_per_node": 2, "mem_gb": 3, "timeout_min": 90}
    parameters |= {"nodes": 3, "tasks_per_node": 2}
    env = build(executor="slurm", slurm=parameters, job_start_minutes=1 / 60)
    dispatcher = started(env)
    run_id = env.request()
    try:
        wait_until(lambda: env.run(run_id).state == "failed")
    finally:
        dispatcher.stop(terminate=True)
    assert "did not start within THUMBLOOP_JOB_START_MINUTES" in (env.run(run_id).reason or "")
    assert "Resources" in (env.run(run_id).reason or "")
    assert cluster.calls("scancel") == ["scancel 77"]
    script = (cluster.folder / "script").read_text()
    asked = ("partition=gpu", "gpus-per-node=2", "mem=3GB", "time=90", "nodes=3", "ntasks-per-node=2")
    for line in (*asked, f"job-name=thumbloop-{run_id}"):
        assert f"#SBATCH --{line}\n" in script


def test_a_waiting_job_is_found_again_and_goes_with_its_run(build: Build, cluster: Cluster) -> None:
    secret = "sqlite:////tmp/a-secret"
    env = build(executor="slurm")
    executor = SlurmExecutor(env.settings.model_copy(update={"database_url": secret}))
    run_id = env.request()
    assert executor.start(run_id) == "slurm-77"
    seen = (cluster.folder / "script").read_text() + (cluster.folder / "environment").read_text()
    assert secret not in seen + "".join(cluster.calls("sbatch"))

    dispatcher = started(env, away_seconds=0.0)
    try:
        wait_until(lambda: cluster.calls("squeue"))
        with env.database.write() as session:
            training_runs.cancel_run(session, run_id)
        wait_until(lambda: cluster.calls("scancel"))
        log = env.artifacts.run_folder(run_id) / "train.log"
        wait_until(lambda: log.exists() and "Job 77 has ended: CANCELLED." in log.read_text())
        assert len(cluster.calls("sbatch")) == 1

        cluster.tell("")  # the machine that knows the jobs is away
        (cluster.folder / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 78\n")
        run_id = env.request()
        wait_until(lambda: env.run(run_id).state == "failed")
        assert "Unable to contact slurmctld" in (env.run(run_id).reason or "")
    finally:
        dispatcher.stop(terminate=True)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"slurm": {"slurm_partitoin": "gpu"}}, "partitoin"),
        ({"slurm": {"mem_gb": "much"}}, "mem_gb"),
        ({"slurm": {"cluster": "local", "nodes": 2}}, "only one node"),
        ({"slurm": {"cluster": "debug"}}, "slurm or local"),
        ({"job_data_dir": "/local"}, "THUMBLOOP_ARTIFACTS"),
    ],
)
def test_wrong_parameters_are_refused_at_the_start(
    tmp_path: Path, cluster: Cluster, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadSetting, match=reason):
        open_executor(load_settings(data_dir=tmp_path, executor="slurm", **settings))


def test_a_machine_without_slurm_says_so(settings: Settings) -> None:
    with pytest.raises(BadSetting, match=r"srun.*Slurm's programs"):
        open_executor(settings.model_copy(update={"executor": "slurm"}))
