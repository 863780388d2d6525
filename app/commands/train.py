"""`thumbloop train`: request a run and follow it; starts the trainer itself where no server does.

Knows a run only through its row, as the admin page does.
"""

import sys
import time
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.prompt import Prompt

from app.commands.terminal import console, opened_database, say
from storage.errors import Conflict

if TYPE_CHECKING:
    from storage.database import Database
    from storage.settings import Settings
    from storage.tables import TrainingRun

# Skipped is no failure, but a script must be able to tell it from a new version.
EXIT_CODES = {"succeeded": 0, "failed": 1, "skipped": 3, "cancelled": 4}
LEFT_RUNNING = 5
POLL_SECONDS = 0.5


def train(
    force: bool = typer.Option(False, "--force", help="Train even where the readiness check says no."),
    follow: bool = typer.Option(True, "--follow/--no-follow", help="Show the progress until it is over."),
) -> None:
    """Request a training run and follow it; follows the one that is under way, if there is one.

    Exit codes: 0 succeeded, 1 failed, 3 skipped (not enough votes), 4 cancelled, 5 left running.
    """
    from trainer.dispatcher import Dispatcher
    from trainer.runners.local import LocalRunner

    with opened_database() as (settings, database):
        run_id = _request(database, settings, force)
        if not follow:
            say(f"Training run {run_id} is requested; a running server trains it.")
            return
        # A server may have a dispatcher too: whichever trainer claims the run first does it.
        dispatcher = Dispatcher(database, settings, LocalRunner(settings))
        dispatcher.start()
        run = _follow(database, run_id)
        over = run.state in EXIT_CODES
        dispatcher.stop(terminate=False)
    if not over:
        say(f"Training run {run_id} goes on. `thumbloop train` follows it again.")
        raise typer.Exit(LEFT_RUNNING)
    say(f"{run.state.capitalize()}: {run.reason}")
    raise typer.Exit(EXIT_CODES[run.state])


def _request(database: "Database", settings: "Settings", force: bool) -> str:
    from storage import model_versions
    from storage.training_runs import active_run, request_run
    from trainer.base_model import resolve

    source = resolve(settings, say)
    with database.write() as session:
        model_versions.ensure_base(session, source.name)
        try:
            return request_run(session, trigger="cli", force=force).id
        except Conflict:
            active = active_run(session)
            assert active is not None
            say(f"Training run {active.id} is under way already; following it.")
            return active.id


def _follow(database: "Database", run_id: str) -> "TrainingRun":
    """Show the run until it is over or the person at the terminal has seen enough."""
    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"), console=console,
    )  # fmt: skip
    with bar:
        task = bar.add_task("waiting for a trainer", total=None, figures="")
        while True:
            try:
                run = _read(database, run_id)
                if run.state in EXIT_CODES:
                    return run
                progress = run.progress
                phase = (
                    progress.get("phase", "starting") if run.state == "running" else "waiting for a trainer"
                )
                bar.update(
                    task,
                    description=phase,
                    total=progress.get("steps"),
                    completed=progress.get("step", 0),
                    figures=_figures(progress),
                )
                time.sleep(POLL_SECONDS)
            except KeyboardInterrupt:
                bar.stop()
                if not _go_on(database, run_id):
                    return _read(database, run_id)
                bar.start()


def _go_on(database: "Database", run_id: str) -> bool:
    """Ask what Ctrl-C was meant for; False to leave the run alone and go."""
    from storage.training_runs import cancel_run

    if not sys.stdin.isatty():
        return False
    answer = Prompt.ask(
        "Leave it running, cancel it, or go on following?", choices=["leave", "cancel", "follow"]
    )
    if answer == "cancel":
        with database.write() as session:
            cancel_run(session, run_id)
    return answer != "leave"


def _read(database: "Database", run_id: str) -> "TrainingRun":
    from storage.training_runs import get_run

    with database.read() as session:
        return get_run(session, run_id)


def _figures(progress: dict[str, float]) -> str:
    parts = []
    if progress.get("loss") is not None:
        parts.append(f"loss {progress['loss']:.4f}")
    if progress.get("seconds_left") is not None:
        parts.append(f"{progress['seconds_left']:.0f} s left")
    return ", ".join(parts)
