"""Trainers as jobs of a real Ray cluster, whose head and node are on loopback: `make test-cluster`."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("ray")
if os.environ.get("THUMBLOOP_TEST_CLUSTER") != "1":  # a head takes a machine's cores from all other tests
    pytest.skip("`make test-cluster` trains on a Ray cluster", allow_module_level=True)

from sqlalchemy.exc import OperationalError

from storage.registry import training_runs
from tests.support import http_loop
from tests.support.live_server import StartServer, wait_until
from tests.support.ray_head import RayHead
from tests.support.training_env import LENIENT, LONG, Build, TrainingEnv
from trainer.runs.dispatcher import Dispatcher
from trainer.runs.ray import RayExecutor


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    head = RayHead()
    head.start()
    yield head
    head.close()


def on_ray(head: RayHead, **more: Any) -> dict[str, Any]:
    cluster = {"address": head.address, "python": sys.executable, **more}
    return {"executor": "ray", "ray": cluster, "ray_headers": head.headers}


def started(env: TrainingEnv, **how: Any) -> Dispatcher:
    dispatcher = Dispatcher(env.database, env.settings, RayExecutor(env.settings), **how)
    dispatcher.start()
    return dispatcher


def trainer_of(job: str) -> psutil.Process:
    """The process of the job that trains; the shell that Ray starts it with has another command line."""
    for process in psutil.process_iter(["cmdline"]):
        if {job, "trainer"} <= {*(process.info["cmdline"] or [])}:
            return process
    raise AssertionError(f"no process works on {job}")


def freeze(trainer: psutil.Process, env: TrainingEnv, run_id: str) -> None:
    """Suspend the trainer and cancel its run; not while it holds the lock of the database."""
    for attempt in range(5):
        trainer.suspend()
        try:
            with env.database.write() as session:
                training_runs.cancel_run(session, run_id)
        except OperationalError:
            trainer.resume()
            if attempt == 4:
                raise
        else:
            return


@pytest.mark.timeout(600)  # three trainers and two heads start, one after the other
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("artifact_store", ["s3"], indirect=True)
def test_a_run_goes_on_without_a_server_its_job_its_machine_and_its_cluster(
    build: Build,
    start_server: StartServer,
    head: RayHead,
    artifact_store: dict[str, Any],
    database_url: str,
    tmp_path: Path,
) -> None:
    machine = tmp_path / "machine"
    shared = {**LONG, **LENIENT, **artifact_store, **on_ray(head), "epochs": 40}
    shared |= {"database_url": database_url, "job_data_dir": str(machine)}
    env = build(**shared)
    env.vote(12)
    one, two = (start_server(**shared, data_dir=tmp_path / name) for name in ("one", "two"))
    with two.client() as client:
        run_id = http_loop.request_run(client)
        first, second, third = (f"thumbloop-{run_id}-{number}" for number in (1, 2, 3))

        def log() -> str:
            return client.get(f"/api/v1/training-runs/{run_id}/log").text

        wait_until(lambda: env.has_stored_checkpoint(run_id), 120, log)
        one.kill()
        trainer_of(first).kill()
        shutil.rmtree(machine)
        wait_until(lambda: "Fetched the checkpoint" in log(), 120, log)
        assert env.run(run_id).owner == second
        head.stop()
        head.start()
        run = http_loop.wait_for_run(two, client, run_id)
        wait_until(lambda: f"Job {third} has ended: SUCCEEDED" in log(), 60, log)
        assert (run["state"], run["model_version"], env.run(run_id).attempts) == ("succeeded", "v2", 3), log()
        assert f"Job {first} has ended: FAILED. Job entrypoint command failed" in log()
        assert f"Job {second} has ended: the cluster has forgotten it" in log()
        assert [log().count(f"attempt {number}") for number in (1, 2, 3)] == [1, 1, 1]
        one.start()
        for server in (one, two):
            with server.client() as person:
                wait_until(lambda person=person: http_loop.chat_once(person, "Hi")["model_version"] == "v2")


def test_a_trainer_that_ignores_its_cancellation_is_stopped_in_the_cluster(
    build: Build, head: RayHead
) -> None:
    env = build(**LONG, **on_ray(head))
    env.vote(12)
    dispatcher = started(env, cancel_grace_seconds=0.0)
    run_id = env.request()
    try:
        wait_until(lambda: env.run(run_id).state == "running", 120)
        trainer = trainer_of(f"thumbloop-{run_id}-1")
        freeze(trainer, env, run_id)
        wait_until(lambda: env.run(run_id).state == "cancelled", 60)
    finally:
        dispatcher.stop(terminate=True)
    trainer.resume()
    psutil.wait_procs([trainer], timeout=60)
    assert not trainer.is_running()


@pytest.mark.parametrize(
    ("changed", "reason", "logged"),
    [
        (
            {"ray": {"num_gpus": 1}, "job_start_minutes": 1 / 60},
            *("did not start within THUMBLOOP_JOB_START_MINUTES=.*waiting for resources", ""),
        ),
        ({"ray": {"python": "/no/python"}}, "ended 2 times before it began", "/no/python: not found"),
        ({"ray": {"address": "http://127.0.0.1:9"}}, "127.0.0.1:9 does not answer: Failed to connect", ""),
        ({"ray_headers": {}}, "does not answer: Authentication required", ""),
    ],
)
def test_a_run_that_cannot_start_in_the_cluster_says_why(
    build: Build, head: RayHead, changed: dict[str, Any], reason: str, logged: str
) -> None:
    values = on_ray(head, **changed.pop("ray", {})) | changed
    env = build(**values, max_attempts=2)
    dispatcher = started(env, away_seconds=0.0)
    run_id = env.request()
    try:
        wait_until(lambda: env.run(run_id).state == "failed")
    finally:
        dispatcher.stop(terminate=True)
    assert re.search(reason, env.run(run_id).reason or ""), env.run(run_id).reason
    assert not logged or logged in env.log(run_id)
