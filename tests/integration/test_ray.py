"""Trainers as jobs of a real Ray cluster, whose head and nodes are on loopback: `make test-cluster`."""

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

from storage.registry import model_versions, training_runs
from tests.support import http_loop
from tests.support.databases import OwnPostgres
from tests.support.live_server import StartServer, wait_until
from tests.support.programs import session_folder
from tests.support.ray_cluster import CPUS, RayCluster
from tests.support.rolling_load import RollingLoad
from tests.support.s3_server import S3Server
from tests.support.training_env import LENIENT, LONG, Build, TrainingEnv
from tests.support.two_blocks import assert_resumed_with_the_loss_of_one_process
from trainer.runs.dispatcher import Dispatcher
from trainer.runs.ray import RayExecutor


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    cluster = RayCluster()
    cluster.start()
    yield cluster
    cluster.close()


@pytest.fixture
def postgres() -> Iterator[OwnPostgres]:
    server = OwnPostgres(session_folder() / "own-postgres")
    yield server
    server.close()


def on_ray(cluster: RayCluster, **more: Any) -> dict[str, Any]:
    asked = {"address": cluster.address, "python": sys.executable, **more}
    return {"executor": "ray", "ray": asked, "ray_headers": cluster.headers}


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


@pytest.mark.timeout(600)  # three trainers and two heads start, one after the other
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("artifact_store", ["s3"], indirect=True)
def test_a_run_goes_on_without_a_server_its_job_its_machine_and_its_cluster(
    build: Build,
    start_server: StartServer,
    cluster: RayCluster,
    artifact_store: dict[str, Any],
    database_url: str,
    tmp_path: Path,
) -> None:
    machine = tmp_path / "machine"
    shared = {**LONG, **LENIENT, **artifact_store, **on_ray(cluster), "epochs": 40}
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
        cluster.kill()
        cluster.start()
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


@pytest.mark.timeout(900)  # three trainers start, one after the other, and one waits for the bucket
@pytest.mark.parametrize("artifact_store", ["s3"], indirect=True)
def test_a_run_and_all_votes_outlive_its_machine_the_database_the_bucket_and_each_server(
    build: Build,
    start_server: StartServer,
    cluster: RayCluster,
    postgres: OwnPostgres,
    s3: S3Server,
    artifact_store: dict[str, Any],
    tmp_path: Path,
) -> None:
    shared = {**LONG, **LENIENT, **artifact_store, **on_ray(cluster), "epochs": 40, "lease_seconds": 30}
    shared |= {"database_url": postgres.address, "job_data_dir": str(tmp_path / "machine")}
    env = build(**shared)
    env.vote(12)
    servers = one, two = [start_server(**shared, data_dir=tmp_path / name) for name in ("one", "two")]
    ports = [server.settings.port for server in servers]
    with RollingLoad(env.database, ports, streams=0, voters=3, votes_per_second=10) as load:
        with one.client() as client:
            run_id = http_loop.request_run(client)
        jobs = [f"thumbloop-{run_id}-{number}" for number in (1, 2, 3)]

        def wait_for(text: str, job: str) -> None:
            wait_until(lambda: text in cluster.printed(job), 240, lambda: cluster.printed(job))

        wait_until(lambda: env.has_stored_checkpoint(run_id), 120, lambda: cluster.printed(jobs[0]))
        cluster.kill_nodes()
        shutil.rmtree(tmp_path / "machine")
        cluster.add_node()
        wait_for("Fetched the checkpoint", jobs[1])
        one.kill()
        with postgres.away():
            wait_for("No heartbeat for", jobs[1])
        load.wait_for(votes=10, replies=0)
        s3.pause()
        one.start()
        two.kill()
        load.wait_for(votes=10, replies=0)
        wait_for("Trying again for 120 s", jobs[1])  # what was trained is to be uploaded
        with postgres.away():
            s3.resume()
            wait_for("The next trainer resumes the run", jobs[1])
        two.start()
        with one.client() as client:
            run = http_loop.wait_for_run(one, client, run_id)
            log = client.get(f"/api/v1/training-runs/{run_id}/log").text
        for server in servers:
            with server.client() as person:
                wait_until(lambda person=person: http_loop.chat_once(person, "Hi")["model_version"] == "v2")
    load.check()
    assert (run["state"], env.run(run_id).attempts, env.run(run_id).owner) == ("succeeded", 3, jobs[2]), log
    with env.database.read() as session:
        assert [found.id for found in training_runs.list_runs(session)] == [run_id]
        assert {version.name for version in model_versions.list_versions(session)} == {"v1", "v2"}
        assert len(model_versions.deployments(session)) == 2
    store = env.stored().store
    for place in store.names(f"adapters/{run_id}"):
        assert store.fetch(f"adapters/{run_id}/{place}", tmp_path / place), "half an adapter"


@pytest.mark.timeout(600)  # two trainers of two processes start
def test_workers_on_two_machines_train_together_and_go_on_without_one(
    build: Build, cluster: RayCluster, tmp_path: Path
) -> None:
    cluster.add_node()
    two = {"workers": 2, "num_cpus": CPUS}  # a whole machine each
    env = build(
        **LONG | {"batch_size": 2, "hold_out_fraction": 1e-9, "epochs": 6, "lease_seconds": 60},
        **on_ray(cluster, **two),
        learning_rate=3e-4,
    )
    env.vote(16)
    dispatcher = started(env)
    run_id = env.request()
    try:
        part = env.hold_second_process(run_id, 10)
        (second,) = [node for node in cluster.nodes if not node.works_on(f"thumbloop-{run_id}-1")]
        second.kill()
        cluster.add_node()
        wait_until(lambda: "-1 has ended" in env.log(run_id), 120, lambda: env.log(run_id))
        part.unlink()
        part.touch()  # as far as it would have come
        wait_until(lambda: env.run(run_id).finished_at, 240, lambda: env.log(run_id))
    finally:
        dispatcher.stop(terminate=True)
    assert_resumed_with_the_loss_of_one_process(env, run_id, tmp_path / "one")


def test_a_trainer_that_ignores_its_cancellation_is_stopped_in_the_cluster(
    build: Build, cluster: RayCluster
) -> None:
    env = build(**LONG, **on_ray(cluster))
    env.vote(12)
    dispatcher = started(env, cancel_grace_seconds=0.0)
    run_id = env.request()
    try:
        wait_until(lambda: env.run(run_id).state == "running", 120)
        trainer = trainer_of(f"thumbloop-{run_id}-1")
        with env.database.write() as session:  # so the trainer does not hold the lock for ever
            trainer.suspend()
            training_runs.cancel_run(session, run_id)
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
    build: Build, cluster: RayCluster, changed: dict[str, Any], reason: str, logged: str
) -> None:
    values = on_ray(cluster, **changed.pop("ray", {})) | changed
    env = build(**values, max_attempts=2)
    dispatcher = started(env, away_seconds=0.0)
    run_id = env.request()
    try:
        wait_until(lambda: env.run(run_id).state == "failed")
    finally:
        dispatcher.stop(terminate=True)
    assert re.search(reason, env.run(run_id).reason or ""), env.run(run_id).reason
    assert not logged or logged in env.log(run_id)
