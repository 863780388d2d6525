"""How a training run looks on a terminal: a bar, the step, the loss, the time left.

Where there is no terminal, a line whenever the phase changes. Knows the row's `progress` and nothing else.
"""

from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from app.commands.terminal import console, say

if TYPE_CHECKING:
    from storage.tables import TrainingRun


class RunProgress(Progress):
    """Use it as a context; `show` the row as often as it is read."""

    def __init__(self) -> None:
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self.add_task("", total=None, figures="")
        self._phase = ""

    def show(self, run: "TrainingRun") -> None:
        progress = run.progress
        phase = str(progress.get("phase", "starting")) if run.state == "running" else "waiting for a trainer"
        if run.cancel_requested:
            phase = "cancelling"
        if phase != self._phase and self.disable:
            say(phase)
        self._phase = phase
        figures = []
        if progress.get("loss") is not None:
            figures.append(f"loss {progress['loss']:.4f}")
        if progress.get("seconds_left") is not None:
            figures.append(f"{progress['seconds_left']:.0f} s left")
        self.tasks[0].total = progress.get("steps")  # `update` takes None for "as it is"
        self.update(
            self._task, description=phase, completed=progress.get("step", 0), figures=", ".join(figures)
        )
