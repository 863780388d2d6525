"""Executors: where the process of a training run is started.

An executor starts a trainer for a run and can end it; the database decides whether the run may start.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Protocol, runtime_checkable

from storage.db.ids import new_id
from storage.errors import BadSetting
from storage.registry.artifacts import Artifacts
from storage.settings import Settings, in_environment
from trainer.errors import NotStarted

# Those that bring libraries of their own are imported when they are used.
OURS = {
    "local": f"{__name__}:LocalExecutor",
    "slurm": "trainer.runs.slurm:SlurmExecutor",
    "ray": "trainer.runs.ray:RayExecutor",
}
# Settings that no trainer reads.
SERVER_ONLY = {
    *("executor", "slurm", "ray", "ray_headers", "job_start_minutes", "job_data_dir"),
    *("webhook_url", "webhook_secret", "oidc", "openai_api_key", "metrics_token", "rate_limit_store"),
}


class Executor(Protocol):
    """The trainers that this executor started, by run id."""

    def start(self, run_id: str) -> str:
        """Start a trainer for the run; returns the owner name under which it will claim the run.

        Raises ClusterAway, which is no failure of the run yet.
        """

    def alive(self, run_id: str) -> bool:
        """Whether the trainer started here for this run is still running, or waits for its start.

        Raises ClusterAway, and NotStarted if it has waited too long; the run then fails with that reason.
        """

    def terminate(self, run_id: str) -> None:
        """Ask the trainer to save a checkpoint and release its run."""

    def kill(self, run_id: str) -> None:
        """Kill the trainer at once, with everything it started."""


@runtime_checkable
class ClusterExecutor(Executor, Protocol):
    """An executor whose trainers go on without the server that started them, and are found by the next."""

    def find(self, run_id: str) -> str | None:
        """The owner name of a trainer that is there for the run, whoever started it; raises ClusterAway.

        From then on it counts as started here.
        """


def open_executor(settings: Settings) -> Executor:
    """The executor named in the settings. Raises BadSetting if it cannot be imported."""
    module, _, name = OURS.get(settings.executor, settings.executor).partition(":")
    try:
        executor: Executor = getattr(import_module(module), name)(settings)
    except (ImportError, AttributeError) as error:
        raise BadSetting(
            f"THUMBLOOP_EXECUTOR={settings.executor}: {error}. Write `local`, `slurm` or `ray` (with pip "
            f"install 'thumbloop[slurm]' or '[ray]'), or `package.module:Class` of a class that Python can "
            f"import here.",
            field="executor",
        ) from error
    return executor


def child_environment(settings: Settings) -> dict[str, str]:
    """An environment from which a child process loads exactly these settings."""
    values = settings.model_dump(mode="json")
    values["data_dir"] = str(settings.data_dir.absolute())
    return environment_with(in_environment(values))


def job_variables(settings: Settings) -> dict[str, str]:
    """The environment variables from which a trainer on another machine loads its settings.

    They leave out what only servers need, above all secrets: others may see them in the cluster.
    """
    values = settings.model_dump(mode="json", exclude=SERVER_ONLY)
    values["data_dir"] = settings.job_data_dir or str(settings.data_dir.absolute())
    values["database_url"] = settings.database_address
    return in_environment(values)


def not_started(job_id: str, minutes: float, said: str) -> NotStarted:
    """A job has waited too long; `said` is what the cluster says of it, perhaps nothing."""
    return NotStarted(
        f"The job {job_id} did not start within THUMBLOOP_JOB_START_MINUTES={minutes:g} and was taken back."
        f"{' The cluster says: ' if said else ''}{said}"
    )


def environment_with(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with these settings and no others."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("THUMBLOOP_")}
    return inherited | dict(variables)


class LocalExecutor:
    """Runs trainers as local processes, each in its own session, so that they outlive the server."""

    def __init__(self, settings: Settings) -> None:
        self._environment = child_environment(settings)
        self._artifacts = Artifacts(settings.data_dir)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, run_id: str) -> str:
        owner = f"{os.uname().nodename}-{new_id()}"
        # The log also receives what libraries print, and the traceback of a trainer that cannot even start.
        with (self._artifacts.run_folder(run_id) / "train.log").open("ab") as log:
            self._processes[run_id] = subprocess.Popen(
                [sys.executable, "-m", "trainer", "run", run_id, "--owner", owner],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the server's terminal must not reach it
            )
        return owner

    def alive(self, run_id: str) -> bool:
        return run_id in self._processes and self._processes[run_id].poll() is None

    def terminate(self, run_id: str) -> None:
        self._signal(run_id, signal.SIGTERM)

    def kill(self, run_id: str) -> None:
        self._signal(run_id, signal.SIGKILL)

    def _signal(self, run_id: str, number: signal.Signals) -> None:
        if self.alive(run_id):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.killpg(self._processes[run_id].pid, number)
