"""Executors: where the process of a training run is started.

An executor starts a trainer for a run and can end it; the database decides whether the run may start. Imports
storage, and the class that THUMBLOOP_EXECUTOR names. Begin with `local.py`.
"""

from importlib import import_module
from typing import Protocol

from storage.errors import BadSetting
from storage.settings import Settings
from trainer.runs.executors.local import LocalExecutor


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
