"""Where a training run executes.

An executor starts a trainer for a run and can end it; the database decides whether the run may start.
Imports storage. Begin with `local.py`.
"""

from importlib import import_module
from typing import Protocol

from storage.errors import BadSetting
from storage.settings import Settings
from trainer.runs.executors.local import LocalExecutor


class Executor(Protocol):
    """The trainers that this executor started, by run id."""

    def start(self, run_id: str) -> str:
        """Start a trainer for the run; returns the owner's name under which it will claim it."""

    def alive(self, run_id: str) -> bool:
        """Whether a trainer that was started here for this run still works."""

    def terminate(self, run_id: str) -> None:
        """Ask the trainer to checkpoint and give its run back."""

    def kill(self, run_id: str) -> None:
        """End the trainer at once, with everything it started."""


def open_executor(settings: Settings) -> Executor:
    """The executor that the settings name. Raises BadSetting if it cannot be imported."""
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
