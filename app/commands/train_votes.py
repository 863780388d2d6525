"""`thumbloop train` on votes: requests a run and follows it; starts the trainer itself if no server does.

It follows the run through its database row, as the admin page does.
"""

import json
import signal
import sys
import time
import urllib.request
from contextlib import ExitStack, suppress

import typer
from rich.prompt import Prompt

from app.commands.accounts import site_here
from app.commands.run_progress import RunProgress
from app.commands.terminal import ACTOR, console, opened_database, say
from storage.db import audit
from storage.db.database import Database
from storage.db.tables import TrainingRun
from storage.errors import Conflict
from storage.registry.training_runs import OVER, active_run, cancel_run, claimable_run, get_run, request_run
from storage.settings import Settings
from trainer.runs.dispatcher import Dispatcher
from trainer.runs.executors import open_executor

# Skipped is not a failure, but a script must be able to distinguish it from success.
EXIT_CODES = {"succeeded": 0, "failed": 1, "skipped": 3, "cancelled": 4}
LEFT_RUNNING = 5
POLL_SECONDS = 0.5
# A trainer loads its libraries before it claims its run. If that takes longer than this, a second one is
# started needlessly: it finds the run claimed and ends.
TRAINER_CLAIMS_WITHIN = 20.0


def train_on_votes(*, force: bool, fresh: bool, follow: bool) -> None:
    """Request a run and follow it, or follow the active one; exits with one of the codes above."""
    with opened_database() as (settings, database):
        if follow:
            run = follow_a_run(settings, database, force=force, fresh=fresh)
            raise typer.Exit(EXIT_CODES[run.state])
        run_id, _ = _request(database, force, fresh)
        with database.read() as session:
            waits = claimable_run(session) is not None
        if waits and not _server_answers(settings):
            open_executor(settings).start(run_id)
        say(f"Training run {run_id} is active; `thumbloop train` follows it.")


def follow_a_run(settings: Settings, database: Database, *, force: bool, fresh: bool) -> TrainingRun:
    """Request a run, or take the active one, and follow it to its end, which is said.

    Exits if the user leaves it running.
    """
    run_id, ours = _request(database, force, fresh)
    patience = 0.0 if ours and not _server_answers(settings) else TRAINER_CLAIMS_WITHIN
    run = _follow(settings, database, run_id, patience=patience)
    if run is None:
        say(f"Training run {run_id} continues in the background; `thumbloop train` follows it again.")
        raise typer.Exit(LEFT_RUNNING)
    say(f"{run.state.capitalize()}: {run.reason}")
    if run.state == "failed" and run.log_path:
        say(f"Its log: {settings.data_dir.absolute() / run.log_path}")
    return run


def _request(database: Database, force: bool, fresh: bool) -> tuple[str, bool]:
    """The id of the run to follow, and whether it was requested here."""
    try:
        with database.write() as session:
            run = request_run(session, trigger="cli", force=force, fresh=fresh)
            audit.record(session, ACTOR, "request run", run.id, force=force, fresh=fresh)
        say(f"Requested training run {run.id}.")
    except Conflict:
        with database.read() as session:
            active = active_run(session)
        if active is None:  # it ended between the two reads
            raise
        say(f"Training run {active.id} is already active; following it.")
        return active.id, False
    return run.id, True


def _server_answers(settings: Settings) -> bool:
    address = f"{site_here(settings)}/healthz"
    with suppress(OSError, ValueError), urllib.request.urlopen(address, timeout=2) as answer:
        return bool(json.load(answer) == {"status": "alive"})
    return False


def _follow(settings: Settings, database: Database, run_id: str, *, patience: float) -> TrainingRun | None:
    """Show the run until it is over; None if the user leaves it running.

    Starts trainers here if the run waits longer than `patience` seconds for one started elsewhere.
    """
    pressed: list[int] = []  # Ctrl-C; as an exception it could end in a destructor, which loses it

    def note(number: int, _frame: object) -> None:
        pressed.append(number)

    waiting_since: float | None = None
    dispatcher: Dispatcher | None = None
    with ExitStack() as at_end:
        progress = at_end.enter_context(RunProgress())
        at_end.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, note))
        while True:
            with database.read() as session:
                run = get_run(session, run_id)
                waits = claimable_run(session) is not None
            if run.state in OVER:
                return run
            now = time.monotonic()
            waiting_since = (waiting_since or now) if waits else None
            if dispatcher is None and waiting_since is not None and now - waiting_since >= patience:
                dispatcher = Dispatcher(database, settings, open_executor(settings))
                dispatcher.start()
                # A trainer started here is a separate process and outlives this command.
                at_end.callback(dispatcher.stop, terminate=False)
            progress.show(run)
            time.sleep(POLL_SECONDS)
            if pressed:
                progress.stop()
                answer = _ask()
                progress.start()
                pressed.clear()
                if answer == "leave":
                    return None
                if answer == "cancel":
                    with suppress(Conflict), database.write() as session:  # it may be over by now
                        cancel_run(session, run_id)


def _ask() -> str:
    if not sys.stdin.isatty():
        return "leave"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends the question
    try:
        question = "\nLeave the run running, cancel it, or continue to follow it?"
        return Prompt.ask(question, choices=["leave", "cancel", "follow"], default="leave", console=console)
    except (KeyboardInterrupt, EOFError):
        return "leave"
    finally:
        signal.signal(signal.SIGINT, before)
