"""Where a training run executes.

A runner starts a trainer for a run and can end it; the database decides whether the run may start.
Begin with `local.py`.
"""

from typing import Protocol


class Runner(Protocol):
    """Trainers that this runner started, by run id."""

    def start(self, run_id: str) -> str:
        """Start a trainer for the run; returns the owner's name under which it will claim it."""

    def alive(self, run_id: str) -> bool:
        """Whether a trainer that was started here for this run still works."""

    def terminate(self, run_id: str) -> None:
        """Ask the trainer to checkpoint and give its run back."""

    def kill(self, run_id: str) -> None:
        """End the trainer at once, with everything it started."""
