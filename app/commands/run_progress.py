"""Shows a training run's progress on a terminal: a bar, the step, the loss, the time left.

Without a terminal it prints a line whenever the phase changes.
"""

from collections.abc import Mapping
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from app.commands.terminal import console, say
from storage.db.tables import TrainingRun
from trainer.text import spoken

FIGURES = {
    "loss": "loss {:.4f}",
    "margin": "margin {:.3f}",
    "kl": "z0 {:.3f}",
    "rows_per_second": "{:.1f} rows/s",
}


class RunProgress(Progress):
    """A context manager. Call `show` with each new row of the run, or `show_progress` with its progress."""

    def __init__(self) -> None:
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self.add_task("", total=None, figures="")
        self._phase = ""

    def show(self, run: TrainingRun) -> None:
        phase = run.progress.get("phase", "starting")
        if run.cancel_requested:
            phase = "cancelling"
        elif run.state != "running":
            phase = "waiting for a trainer"
        self.show_progress({**run.progress, "phase": phase})

    def show_progress(self, progress: Mapping[str, Any]) -> None:
        phase = str(progress["phase"])
        if phase != self._phase and self.disable:
            say(phase)
        self._phase = phase
        figures = [
            shown.format(progress[name]) for name, shown in FIGURES.items() if progress.get(name) is not None
        ]
        if progress.get("seconds_left") is not None:
            figures.append(f"{spoken(progress['seconds_left'])} left")
        self.tasks[0].total = progress.get("steps")  # set here, because `update` ignores None
        self.update(
            self._task, description=phase, completed=progress.get("step", 0), figures=", ".join(figures)
        )
