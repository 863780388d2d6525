"""`thumbloop train --data F --out DIR`: the engine alone on a file, in this process; no database."""

import json
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from app.commands.run_progress import RunProgress
from app.commands.terminal import say
from storage.errors import BadSetting, Conflict, InvalidInput

if TYPE_CHECKING:
    from storage.import_formats import ImportOptions
    from storage.settings import Settings

STOPPED = 130  # as a shell says of what Ctrl-C ended
NO_REFERENCES = "none"


def train_file(
    data: Path,
    out: Path,
    *,
    settings: Mapping[str, Any],
    reference_cache: str | None,
    report: Path | None,
    max_rows: int | None,
    skip_bad: bool,
    options: "ImportOptions",
) -> None:
    """Train and say what came of it; `settings` are those of the command line, by their names."""
    if report is not None and not report.absolute().parent.is_dir():
        raise InvalidInput(
            f"--report {report}: there is no folder {report.absolute().parent}.", field="report"
        )
    if report is not None and report.is_dir():
        raise InvalidInput(f"--report {report} is a folder; name a file in it.", field="report")
    chosen = _settings(settings)
    if reference_cache is None:
        references: Path | None = chosen.data_dir
        with suppress(OSError):  # what needs the folder says so
            chosen.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # a server may live in it later
    else:
        references = None if reference_cache == NO_REFERENCES else Path(reference_cache)

    from trainer.process import prepare_process

    prepare_process()
    if int(os.environ.get("RANK", "0")) > 0:  # of several that torchrun or accelerate launch started
        from trainer.follower import follow_launched

        follow_launched()
        return
    with RunProgress() as progress, lines_above(progress), stop_signals() as check:
        progress.show_progress({}, "loading libraries")
        import torch

        from trainer.kto import Diverged
        from trainer.lease import Interrupted
        from trainer.offline import OfflineTraining, train_on_file
        from trainer.processes import ProcessLost, dismiss_launched

        wanted = OfflineTraining(
            data, out, chosen, references, max_rows=max_rows, skip_bad=skip_bad, options=options
        )

        def show(state: dict[str, Any]) -> None:
            progress.show_progress(state, str(state["phase"]))
            check()

        try:
            found = train_on_file(wanted, progress=show, check=check)
        except (Interrupted, KeyboardInterrupt):
            progress.stop()
            say("Stopped. The same command goes on from here.")
            raise typer.Exit(STOPPED) from None
        except Diverged as error:
            raise Conflict(str(error), code="diverged") from error
        except ProcessLost as error:
            raise Conflict(f"{error} The same command goes on there.", code="process_lost") from error
        except (MemoryError, torch.OutOfMemoryError) as error:
            told = str(error) or f"The training ran out of memory; lower --max-length ({chosen.max_length})."
            raise Conflict(told, code="out_of_memory") from error
        finally:
            dismiss_launched()
    if report is not None:
        report.write_text(json.dumps(found, indent=2) + "\n")
    together = f" with {found['processes']} processes" if found["processes"] > 1 else ""
    say(
        f"Trained on {found['rows']} rows{together} in {found['seconds']['training']:.1f} s "
        f"({found['seconds_per_row']:.2f} s a row, after {found['seconds']['set_up']:.1f} s of preparation), "
        f"at most {found['peak_memory_mb']:.0f} MiB of memory."
    )
    say(f"The adapter is in {out}.")


def _settings(given: Mapping[str, Any]) -> "Settings":
    """The settings in force with those of the command line; a bad one of these is called by its option."""
    from storage.settings import load_settings

    try:
        return load_settings(**given)
    except BadSetting as error:
        if error.field is None or error.field not in given:
            raise
        told = error.message.replace(f"THUMBLOOP_{error.field.upper()}=", f"{option_of(error.field)} ")
        raise InvalidInput(told, field=error.field) from error


def refuse_launched() -> None:
    """For what is one process, and would be done several times."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InvalidInput(
            "torchrun and accelerate launch are for `thumbloop train --data` and `python -m trainer run`; "
            "start this one by itself. A run on votes trains with THUMBLOOP_TRAINING_PROCESSES processes."
        )


def option_of(name: str) -> str:
    """How an argument of `thumbloop train` is called on the command line."""
    return "--processes" if name == "training_processes" else f"--{name.replace('_', '-')}"


@contextmanager
def lines_above(progress: RunProgress) -> Iterator[None]:
    """What the trainer logs, as lines above the bar."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    logger, handler = logging.getLogger("trainer"), Handler()
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@contextmanager
def stop_signals() -> "Iterator[Any]":
    """What raises Interrupted once SIGINT or SIGTERM came; a second one of them ends at once."""
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, signal.default_int_handler)

    def check() -> None:
        if received:
            from trainer.lease import Interrupted

            raise Interrupted("terminated")

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
