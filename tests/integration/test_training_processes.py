"""Training with two processes, as a user has it: runs on votes, a file, torchrun, and sudden ends."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from storage.errors import Conflict, ModelUnavailable
from storage.imports.rows.options import NO_OPTIONS
from storage.registry import training_runs
from storage.settings import Settings
from tests.support.command_line import CommandLine
from tests.support.live_server import wait_until
from tests.support.programs import free_port, run_together, start_together
from tests.support.rated_files import rated, write_rows
from tests.support.training_env import LONG, Build
from tests.support.two_blocks import train_doubled
from trainer.adapters.parent import ParentAdapter
from trainer.dataset.plan import plan_training
from trainer.dataset.tokenise import LeftOut, tokenise
from trainer.engine.trl_trainer import newest_checkpoint, step_of
from trainer.errors import Interrupted
from trainer.launch import launcher
from trainer.launch.worker import Job
from trainer.model.base_model import load_tokenizer, resolve
from trainer.offline.rows import read_rows
from trainer.offline.train_file import OfflineTraining, train_on_file
from trainer.runs import attempt
from trainer.runs.executors import child_environment

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
TWO = {"training_processes": 2, "batch_size": 2}
# So small a share leaves two votes of each kind held out, and of sixteen votes twelve: three turns of two.
TWO_LONG = {**LONG, **TWO, "hold_out_fraction": 1e-9, "lease_seconds": 60}


def workers(supervisor: int | None = None) -> list[psutil.Process]:
    """What the fork server of a supervisor forked, in order; of this process, if no other is named."""
    children = psutil.Process(supervisor).children()
    servers = [one for one in children if "multiprocessing.forkserver" in " ".join(one.cmdline())]
    return sorted((one for server in servers for one in server.children()), key=attrgetter("pid"))


def is_over(process: psutil.Process) -> bool:
    """Whether it has ended, be it that nobody has asked how."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_run_that_lost_a_process_in_a_checkpoint_ends_as_one_process_with_the_doubled_batch(
    build: Build, tmp_path: Path
) -> None:
    # Adam makes of rounding errors a share of the rate.
    env = build(**TWO_LONG | {"epochs": 6}, learning_rate=3e-4)
    env.vote(16)
    run_id = env.request()
    supervisor = env.start(run_id)
    part = env.hold_second_process(run_id, 10)
    _, other = workers(supervisor.pid)
    other.kill()
    assert supervisor.wait(timeout=60) == attempt.RELEASED, env.log(run_id)
    assert "Process 2 of 2 was ended by SIGKILL" in env.log(run_id)
    assert env.claimable(), "nobody waits for the lease to run out"
    part.unlink()
    part.touch()  # as far as it would have come
    assert env.train(run_id) == attempt.DONE, env.log(run_id)

    run = env.run(run_id)
    assert (run.state, run.attempts) == ("succeeded", 2), env.log(run_id)
    trained = run.metrics["training"]
    assert (trained["processes"], trained["steps"], run.metrics["plan"]["steps"]) == (2, 18, 18)
    assert trained["resumed_from_step"] == 8
    assert "18 steps of 4 examples (2 processes together)" in env.log(run_id)
    rows = env.rows_of(run_id)
    weights = plan_training(rows, LeftOut(), env.settings).weights
    steps, expected = train_doubled(rows, weights, env.settings, tmp_path / "one")
    assert trained["last_loss"] == pytest.approx(steps[-1]["loss"], rel=1e-4)
    margin = re.findall(r"Step 18 of 18: .* reward margin (\S+),", env.log(run_id))[-1]
    assert float(margin) == pytest.approx(steps[-1]["rewards/margins"], abs=1e-3)
    folder = env.artifacts.folder(env.version("v2").path or "")
    found = load_file(folder / "adapter_model.safetensors")
    assert len(found) == len(expected)
    for name, weight in found.items():
        other_name = name.replace(".weight", ".default.weight")
        torch.testing.assert_close(weight, expected[other_name], rtol=0, atol=1e-4)


def test_a_terminated_run_keeps_its_last_step_and_a_cancelled_one_leaves_no_process(build: Build) -> None:
    env = build(**TWO_LONG)
    env.vote(16)
    run_id = env.request()
    supervisor = env.start_and_reach_checkpoint(run_id)
    both = workers(supervisor.pid)
    for process in (psutil.Process(supervisor.pid), *both):
        listening = [one for one in process.net_connections() if one.status == psutil.CONN_LISTEN]
        assert all(one.laddr.ip == "127.0.0.1" for one in listening), listening
    os.killpg(supervisor.pid, signal.SIGTERM)  # as a service manager does: to all of them
    assert supervisor.wait(timeout=60) == attempt.RELEASED, env.log(run_id)
    assert not any(one.is_running() for one in both)
    assert env.claimable()
    newest = newest_checkpoint(env.artifacts.run_folder(run_id) / "checkpoints")
    assert newest is not None
    assert "Stopped as asked" in env.log(run_id)
    assert int(re.findall(r"Step (\d+) of 60", env.log(run_id))[-1]) == step_of(newest)

    supervisor = env.start(run_id)
    wait_until(lambda: f"Step {step_of(newest) + 1} of 60" in env.log(run_id), 60, lambda: env.log(run_id))
    assert f"Resuming from {newest.name}" in env.log(run_id)
    both = workers(supervisor.pid)
    with env.database.write() as session:
        training_runs.cancel_run(session, run_id)
    assert supervisor.wait(timeout=60) == attempt.DONE
    assert env.run(run_id).state == "cancelled", env.log(run_id)
    assert not any(one.is_running() for one in both)


def test_others_end_with_a_killed_supervisor_and_another_number_of_them_starts_again(
    build: Build, tmp_path: Path
) -> None:
    env = build(**TWO_LONG | {"lease_seconds": 3})
    env.vote(16)
    run_id = env.request()
    supervisor = env.start_and_reach_checkpoint(run_id)
    _, other = workers(supervisor.pid)
    supervisor.kill()
    wait_until(lambda: is_over(other))
    wait_until(env.claimable, 30)
    where = {"environment": child_environment(env.settings), "output": tmp_path / "run"}
    run_together(3, "trainer", "run", run_id, **where)
    run = env.run(run_id)
    assert run.state == "succeeded", env.log(run_id)
    assert "Another number of processes makes other batches; training starts again." in env.log(run_id)
    trained = run.metrics["training"]
    assert (trained["processes"], trained["resumed_from_step"], trained["steps"]) == (3, 0, 40)


def test_launched_processes_end_where_there_is_nothing_to_train(build: Build, tmp_path: Path) -> None:
    env = build(min_votes_per_class=5)
    env.vote(4)
    run_id = env.request()
    where = {"environment": child_environment(env.settings), "output": tmp_path / "run"}
    run_together(2, "trainer", "run", run_id, **where)
    assert env.run(run_id).state == "skipped"


def test_machines_without_a_common_folder_do_not_train_together(build: Build, tmp_path: Path) -> None:
    env = build(database_url=f"sqlite:///{tmp_path}/machines.db")
    env.vote(12)
    run_id = env.request()
    machines = [tmp_path / "one", tmp_path / "two"]
    for machine in machines:
        machine.mkdir()
    # Another folder for each process, by its working directory.
    settings = env.settings.model_copy(update={"data_dir": Path("/proc/self/cwd/data")})
    where = {"environment": child_environment(settings), "output": tmp_path / "run", "folders": machines}
    for process in start_together(2, "trainer", "run", run_id, **where):
        process.wait(timeout=60)
    assert env.run(run_id).state == "failed"
    assert "Process 2 of 2 does not see" in (env.run(run_id).reason or "")


def test_a_stopped_training_keeps_its_last_step_and_goes_on_on_two_nodes_of_torchrun(
    tmp_path: Path, tiny_model: Path
) -> None:
    line = CommandLine(tmp_path / "data", tiny_model)
    line.settings |= {**TWO, "epochs": 10.0, "checkpoint_steps": 1000}
    given = {name: value for name, value in line.settings.items() if name != "model"}
    settings = Settings(model=str(tiny_model), **given)  # type: ignore[arg-type]
    data = write_rows(tmp_path / "rows.jsonl", map(rated, range(11)))
    wanted = OfflineTraining(data, tmp_path / "out", settings, None)
    reached: list[int] = []

    def stop() -> None:
        if reached and reached[-1] >= 3:
            raise Interrupted("terminated")

    with pytest.raises(Interrupted):
        train_on_file(wanted, progress=lambda state: reached.append(state.get("step", 0)), check=stop)
    assert not workers()
    newest = newest_checkpoint(tmp_path / "out" / "unfinished" / "checkpoints")
    assert newest is not None
    assert step_of(newest) == reached[-1]
    assert not launcher.launched(), "this process is alone again"
    alone = settings.model_copy(update={"training_processes": 1})
    with pytest.raises(Conflict, match="unfinished training with another training_processes"):
        train_on_file(OfflineTraining(data, tmp_path / "out", alone, None))

    command = ["-m", "app.cli", "train", "--data", str(data), "--out", str(tmp_path / "out")]
    last = ["--reference-cache", "none", "--report", str(tmp_path / "report.json")]
    place = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    nodes = [
        subprocess.Popen([*TORCHRUN, *place, "--node-rank", rank, *command, *last], env=line.environment)
        for rank in ("0", "1")
    ]
    try:
        assert [node.wait(timeout=120) for node in nodes] == [0, 0]
    finally:
        for node in nodes:
            node.kill()
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["processes"], report["resumed_from_step"]) == (2, step_of(newest))
    # Six blocks of eleven rows, of which the last has one row more that comes twice.
    assert [step["step"] for step in report["steps"]] == list(range(1, 10 * 3 + 1))


def job_of_two(kind: type[Job], folder: Path, model: Path, **other: Any) -> Job:
    """A job on eight long rows."""
    settings = Settings(data_dir=folder, model=str(model), precision="fp32", lora_rank=4, **TWO | other)
    source = resolve(settings)
    long = [rated(number, completion=f"It is {2 * number}. " * 80) for number in range(8)]
    examples = read_rows(write_rows(folder / "rows.jsonl", long), options=NO_OPTIONS).examples
    rows = tokenise(load_tokenizer(source), examples, max_length=1024)[0]
    weights = plan_training(rows, LeftOut(), settings).weights
    return kind(source, None, settings, rows, weights, folder / "out", folder / "adapter", False, None)


def test_a_process_that_fails_ends_the_training_with_its_reason(tmp_path: Path, tiny_model: Path) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "model")
    job = job_of_two(Job, tmp_path, copy)
    (copy / "config.json").unlink()
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        launcher.train(job, processes=2)
    assert not workers()


@dataclass(frozen=True)
class SlowStart(ParentAdapter):
    """An adapter that takes minutes to load."""

    def load_into(self, model: Any) -> Any:
        (self.folder / "loading").touch()
        time.sleep(600)


def test_a_training_is_stopped_while_its_other_processes_still_load(tmp_path: Path, tiny_model: Path) -> None:
    job = job_of_two(Job, tmp_path, tiny_model)
    slow = SlowStart("id", "v2", tmp_path, "sha256")

    def check() -> None:
        if (tmp_path / "loading").exists():
            raise Interrupted("cancelled")

    with pytest.raises(Interrupted):
        launcher.train(replace(job, start=slow), processes=2, check=check)
    assert not workers()


HOARD: list[bytearray] = []


class CrampedJob(Job):
    """A job whose second process gets no more memory from its first step on."""

    def train(self, **how: Any) -> Any:
        loading = iter((True,))  # the first check comes before the training
        if torch.distributed.get_rank() == 1:
            how["check"] = lambda: None if next(loading, False) else get_no_more_memory()
        try:
            return super().train(**how)
        finally:
            HOARD.clear()  # what a step took is free after it, too


def get_no_more_memory() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken, most))
    size = 1 << 24
    while size >= 1 << 16:  # what was freed before and is kept would do for a tiny model
        try:
            HOARD.append(bytearray(size))
        except MemoryError:
            size //= 2


def test_a_process_without_memory_ends_the_training_with_its_reason(tmp_path: Path, tiny_model: Path) -> None:
    """Stock TRL has no smaller passes; the engine shared-prefix gets through with them."""
    job = job_of_two(CrampedJob, tmp_path, tiny_model, engine="trl")
    with pytest.raises(MemoryError, match="(ran out of|allocate) memory"):
        launcher.train(job, processes=2)
    assert not workers()
