"""Trainers as jobs of a Slurm cluster, submitted through submitit.

A run's jobs have a folder of their own, which the cluster shares. Submitit leaves a file there for each job,
with its id in the name; it is deleted when the job has ended, so a server that starts finds the jobs that are
left. The file holds the settings: neither a command line nor Slurm sees the database's password.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import psutil
from submitit import AutoExecutor, Job, JobEnvironment, LocalJob, SlurmJob
from submitit.helpers import TorchDistributedEnvironment

from storage.errors import BadSetting
from storage.files.locks import lock
from storage.registry.artifacts import Artifacts
from storage.settings import Settings
from trainer.errors import ClusterAway
from trainer.runs.executors import environment_with, job_variables, not_started

log = logging.getLogger(__name__)

ASK_SECONDS = 5.0  # between two questions to Slurm about one job
ANSWER_SECONDS = 30.0
# Submitit's default, five minutes, is hardly enough to load a model. A run goes on in another job.
DEFAULTS = {"timeout_min": 240}
SUBMITTED = "_submitted.pkl"
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT", ""),
}


@dataclass
class _Known:
    """A job, and what the cluster last said of it."""

    job: Job[None]
    state: str = "PENDING"
    reason: str = ""
    asked_at: float = float("-inf")


class SlurmExecutor:
    """Submits a job for each trainer. Raises BadSetting."""

    def __init__(self, settings: Settings, ask_seconds: float = ASK_SECONDS) -> None:
        self._ask_seconds = ask_seconds
        self._start_minutes = settings.job_start_minutes
        self._artifacts = Artifacts(settings.data_dir)
        self._variables = job_variables(settings)
        self._parameters = DEFAULTS | settings.slurm
        self._cluster = self._parameters.pop("cluster", "slurm")
        self._jobs: dict[str, _Known] = {}
        self._submitter(Path(gettempdir()))  # says now what is wrong with the settings

    def start(self, run_id: str) -> str:
        folder = self._folder(run_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock(folder / "lock"):  # several servers may want to submit
            if (owner := self.find(run_id)) is not None:
                return owner
            train_log = str(self._artifacts.run_folder(run_id) / "train.log")
            job = self._submitter(folder, run_id).submit(be_trainer, run_id, train_log, self._variables)
            self._jobs[run_id] = _Known(job.task(0))
        log.info("Submitted job %s for run %s.", job.job_id, run_id)
        return _owner(job.job_id)

    def find(self, run_id: str) -> str | None:
        files = sorted(self._folder(run_id).glob(f"*{SUBMITTED}"), key=_time_of)
        if not files:
            return None
        job_id = files[-1].name.removesuffix(SUBMITTED)
        if run_id not in self._jobs or self._jobs[run_id].job.job_id != job_id:
            of = LocalJob if self._cluster == "local" else SlurmJob
            self._jobs[run_id] = _Known(of(files[-1].parent, job_id))
        return _owner(job_id) if self.alive(run_id) else None

    def alive(self, run_id: str) -> bool:
        known = self._jobs.get(run_id)
        if known is None:
            return False
        self._ask(known)
        if known.state in ENDED:
            self._forget(run_id, known.state)
            return False
        if known.state == "PENDING" and self._waits_too_long(known):
            self.kill(run_id)
            raise not_started(known.job.job_id, self._start_minutes, known.reason)
        return True

    def terminate(self, run_id: str) -> None:
        if known := self._jobs.get(run_id):
            self._cancel(known.job, signal.SIGTERM)

    def kill(self, run_id: str) -> None:
        if known := self._jobs.get(run_id):
            self._cancel(known.job, signal.SIGINT)
            self._forget(run_id, "cancelled")

    def _folder(self, run_id: str) -> Path:
        return self._artifacts.runs / run_id / "jobs"

    def _submitter(self, folder: Path, run_id: str = "") -> AutoExecutor:
        try:
            submitter = AutoExecutor(folder, cluster=self._cluster)
            submitter.update_parameters(**{"name": f"thumbloop-{run_id}"} | self._parameters)
        except (AssertionError, NameError, TypeError, ValueError) as error:
            raise BadSetting(f"THUMBLOOP_SLURM: {error}", field="slurm") from error
        except RuntimeError as error:
            raise BadSetting(
                f"THUMBLOOP_EXECUTOR=slurm: {error} Start the server where Slurm's programs are.",
                field="executor",
            ) from error
        return submitter

    def _ask(self, known: _Known) -> None:
        if isinstance(known.job, LocalJob):
            known.state = "RUNNING" if _runs_here(known.job) else ""
        elif time.monotonic() - known.asked_at >= self._ask_seconds:
            known.asked_at = time.monotonic()
            known.state, known.reason = _state_in_slurm(known.job.job_id)

    def _waits_too_long(self, known: _Known) -> bool:
        submitted = known.job.paths.submitted_pickle
        return submitted.exists() and time.time() - _time_of(submitted) > 60 * self._start_minutes

    def _cancel(self, job: Job[None], number: signal.Signals) -> None:
        if isinstance(job, LocalJob):
            # Submitit passes SIGTERM on, and ends a job within a second of SIGINT.
            if _runs_here(job):
                os.kill(int(job.job_id), number)
        else:
            job.cancel(check=False)  # SIGTERM at once, SIGKILL after Slurm's KillWait

    def _forget(self, run_id: str, state: str) -> None:
        """Write into the run's log how the job ended, once, and what it said before it was a trainer."""
        job = self._jobs.pop(run_id).job
        said = job.stderr() or ""
        with contextlib.suppress(FileNotFoundError):  # another server was first
            job.paths.submitted_pickle.unlink()
            with (self._artifacts.run_folder(run_id) / "train.log").open("a") as file:
                file.write(f"{said}Job {job.job_id} has ended{': ' if state else ''}{state}.\n")


def be_trainer(run_id: str, train_log: str, variables: dict[str, str]) -> None:
    """In the job: become `python -m trainer run`, with its output in the run's log.

    It takes this process's place, because Slurm's signals are for it. The tasks of a job train together, with
    the environment that torchrun would give them.
    """
    if JobEnvironment().num_tasks > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    with Path(train_log).open("ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    owner = _owner(JobEnvironment().job_id)
    command = [sys.executable, "-m", "trainer", "run", run_id, "--owner", owner, "--print-log"]
    os.execve(sys.executable, command, environment_with(variables))


def _owner(job_id: str) -> str:
    return f"slurm-{job_id}"


def _time_of(file: Path) -> float:
    return file.stat().st_mtime


def _runs_here(job: Job[Any]) -> bool:
    """Whether the process of submitit's own local cluster lives, whoever started it."""
    assert job.state  # a child that has ended stays in the process table until somebody asks
    with contextlib.suppress(psutil.Error):
        return str(job.paths.folder) in psutil.Process(int(job.job_id)).cmdline()
    return False


def _state_in_slurm(job_id: str) -> tuple[str, str]:
    """The state of a job and why it waits, by Slurm's names; no state if it ended some time ago."""
    command = ["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T|%r"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterAway(f"Slurm does not answer: {error}.") from error
    if told.returncode and "Invalid job id" not in told.stderr:
        raise ClusterAway(f"Slurm does not answer: {told.stderr.strip() or told.returncode}.")
    state, _, reason = told.stdout.strip().partition("|")
    return state, "" if reason == "None" else reason
