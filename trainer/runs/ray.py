"""Trainers as jobs of a Ray cluster, by the Ray Jobs API.

A job's submission id has the run's id and a number. So a server that starts finds the jobs that are there,
and of two servers that submit at once only one succeeds: Ray refuses an id that it knows. Ray keeps what a
job prints; it is copied into the run's log.
"""

import json
import logging
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from storage.files.locks import lock
from storage.registry.artifacts import Artifacts
from storage.settings import Settings
from trainer.errors import ClusterAway
from trainer.runs.executors import job_variables, not_started

log = logging.getLogger(__name__)

COPY_SECONDS = 2.0  # between two looks at what a job has printed
PATIENCE = (5.0, 30.0)  # seconds for a connection, and for an answer
# Ray kills a job three seconds after it asked it to stop, unless the job's environment says otherwise.
TIME_TO_STOP = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}


class _Client(JobSubmissionClient):
    """Waits for no answer for ever, as the dispatcher's one thread would."""

    def _do_request(self, *request: Any, **options: Any) -> requests.Response:
        response: requests.Response = super()._do_request(*request, timeout=PATIENCE, **options)
        return response


@dataclass
class _Job:
    id: str
    copied_at: float = float("-inf")


class RayExecutor:
    """Submits a job for each trainer."""

    def __init__(self, settings: Settings) -> None:
        self._cluster, self._headers = settings.ray, settings.ray_headers
        self._start_minutes = settings.job_start_minutes
        self._variables = job_variables(settings)
        self._artifacts = Artifacts(settings.data_dir)
        self._client: _Client | None = None
        self._jobs: dict[str, _Job] = {}

    def start(self, run_id: str) -> str:
        if (owner := self.find(run_id)) is not None:
            return owner
        job_id = _job_id(run_id, self._newest(run_id) + 1)
        self._submit(run_id, job_id)
        self._jobs[run_id] = _Job(job_id)
        return job_id

    def find(self, run_id: str) -> str | None:
        number = self._newest(run_id)
        if number == 0:
            return None
        job_id = _job_id(run_id, number)
        if run_id not in self._jobs or self._jobs[run_id].id != job_id:
            self._jobs[run_id] = _Job(job_id)
        return job_id if self.alive(run_id) else None

    def alive(self, run_id: str) -> bool:
        job = self._jobs.get(run_id)
        if job is None:
            return False
        details = self._details(job.id)
        ended = details is None or details.status.is_terminal()
        if ended or time.monotonic() - job.copied_at >= COPY_SECONDS:
            job.copied_at = time.monotonic()
            self._copy_output(run_id, job.id)
        if details is None:
            self._forget(run_id, "the cluster has forgotten it, as after a restart of its head")
            return False
        said = (details.message or "").partition("\n")[0]
        if ended:
            self._forget(run_id, f"{details.status.value}. {said}")
            return False
        submitted = (details.start_time or 0) / 1000  # Ray's name for it
        if details.status == JobStatus.PENDING and time.time() - submitted > 60 * self._start_minutes:
            self.kill(run_id)
            raise not_started(job.id, self._start_minutes, said)
        return True

    def terminate(self, run_id: str) -> None:
        if job := self._jobs.get(run_id):
            with self._asking() as client:
                client.stop_job(job.id)

    def kill(self, run_id: str) -> None:
        if run_id in self._jobs:
            with suppress(ClusterAway):
                self.terminate(run_id)
            self._forget(run_id, "stopped")

    def _newest(self, run_id: str) -> int:
        """The number of the run's newest job, 0 if there is none.

        The run's log may know of a later one than Ray, whose memory ends with its head.
        """
        numbers = re.findall(
            rf"^Job {_job_id(run_id, '')}(\d+)", _read(self._train_log(run_id)), re.MULTILINE
        )
        number = max(map(int, numbers), default=0)
        while self._details(_job_id(run_id, number + 1)) is not None:
            number += 1
        return number

    def _submit(self, run_id: str, job_id: str) -> None:
        program = ("trainer.runs.ray_workers", self._plan()) if self._cluster.workers > 1 else ("trainer",)
        words = (self._cluster.python, "-m", *program, "run", run_id, "--owner", job_id, "--print-log")
        theirs = self._cluster.runtime_env
        variables = TIME_TO_STOP | theirs.get("env_vars", {}) | self._variables
        with self._asking() as client:
            try:
                client.submit_job(
                    entrypoint=shlex.join(words),
                    submission_id=job_id,
                    runtime_env=theirs | {"env_vars": variables},
                    entrypoint_num_cpus=self._cluster.num_cpus,
                    entrypoint_num_gpus=self._cluster.num_gpus,
                    entrypoint_memory=int(self._cluster.memory_gb * 2**30),
                    entrypoint_resources=self._cluster.resources,
                )
            except RuntimeError as error:
                if "already exists" not in str(error):  # another server was first
                    raise
        log.info("Submitted job %s.", job_id)

    def _plan(self) -> str:
        """What `ray_workers` reads."""
        asked = self._cluster
        bundle = {"CPU": asked.num_cpus, "GPU": asked.num_gpus, "memory": int(asked.memory_gb * 2**30)}
        bundle = {name: amount for name, amount in (bundle | asked.resources).items() if amount}
        seconds = 60 * self._start_minutes
        return json.dumps({"workers": asked.workers, "bundle": bundle, "seconds": seconds})

    def _details(self, job_id: str) -> JobDetails | None:
        with self._asking() as client:
            try:
                return client.get_job_info(job_id)
            except RuntimeError as error:
                if "does not exist" not in str(error):
                    raise
        return None

    @contextmanager
    def _asking(self) -> Iterator[_Client]:
        """The client; whatever keeps the cluster from answering raises ClusterAway."""
        try:
            if self._client is None:
                self._client = _Client(self._cluster.address, headers=dict(self._headers))
            yield self._client
        except (AuthenticationError, OSError, RuntimeError) as error:
            # The message may hold a whole traceback of the cluster.
            lines = [line for line in str(error).splitlines() if line.strip(" .")]
            why = " … ".join(dict.fromkeys((lines[0], lines[-1])))
            if isinstance(error, requests.RequestException):
                why = type(error).__name__
            raise ClusterAway(f"The Ray cluster at {self._cluster.address} does not answer: {why}") from error

    def _copy_output(self, run_id: str, job_id: str) -> None:
        try:
            with self._asking() as client:
                printed = client.get_job_logs(job_id)
        except ClusterAway:  # the output was on a machine that is gone
            return
        if printed:
            self._append(run_id, job_id, printed)

    def _forget(self, run_id: str, ending: str) -> None:
        self._append(run_id, self._jobs.pop(run_id).id, "", f" has ended: {ending}")

    def _train_log(self, run_id: str) -> Path:
        return self._artifacts.runs / run_id / "train.log"

    def _append(self, run_id: str, job_id: str, printed: str, ending: str = "") -> None:
        """Add to the run's log what is not there yet, below a line with the job's id, or a line on its end.

        Several servers may share the file.
        """
        train_log = self._artifacts.run_folder(run_id) / "train.log"
        begin, end = f"Job {job_id}:\n", f"Job {job_id}{ending}\n"
        with lock(train_log.with_suffix(".lock")), train_log.open("a", newline="") as file:
            text = _read(train_log)
            _, begun, copied = text.rpartition(begin)
            if ending:
                file.write("" if end in text else end)
            else:
                file.write(printed[len(copied) :] if begun else begin + printed)


def _read(file: Path) -> str:
    if not file.exists():
        return ""
    with file.open(newline="") as opened:  # as Ray has it: it gives back what it has read
        return opened.read()


def _job_id(run_id: str, number: int | str) -> str:
    return f"thumbloop-{run_id}-{number}"
