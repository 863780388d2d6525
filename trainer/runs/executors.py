"""Executors: where the process of a training run is started.

An executor starts a trainer for a run and can end it; the database decides whether the run may start.
"""

import contextlib
import os
import signal
import subprocess
import sys
from importlib import import_module
from typing import Protocol

from storage.db.ids import new_id
from storage.errors import BadSetting
from storage.registry.artifacts import Artifacts
from storage.settings import Settings, in_environment


class Executor(Protocol):
    """The trainers that this executor started, by run id."""

    def start(self, run_id: str) -> str:
        """Start a trainer for the run; returns the owner name under which it will claim the run."""

    def alive(self, run_id: str) -> bool:
        """Whether the trainer started here for this run is still running."""

    def terminate(self, run_id: str) -> None:
        """Ask the trainer to save a checkpoint and release its run."""

    def kill(self, run_id: str) -> None:
        """Kill the trainer at once, with everything it started."""


def open_executor(settings: Settings) -> Executor:
    """The executor named in the settings. Raises BadSetting if it cannot be imported."""
    if settings.executor == "local":
        return LocalExecutor(settings)
    module, _, name = settings.executor.partition(":")
    try:
        executor: Executor = getattr(import_module(module), name)(settings)
    except (ImportError, AttributeError) as error:
        raise BadSetting(
            f"THUMBLOOP_EXECUTOR={settings.executor}: {error}. Write `local`, or `package.module:Class` of a "
            f"class that Python can import here.",
            field="executor",
        ) from error
    return executor


def child_environment(settings: Settings) -> dict[str, str]:
    """An environment from which a child process loads exactly these settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("THUMBLOOP_")}
    values = settings.model_dump(mode="json")
    values["data_dir"] = str(settings.data_dir.absolute())
    return inherited | in_environment(values)


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
