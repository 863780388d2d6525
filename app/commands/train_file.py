"""`thumbloop train --data F --out DIR`: trains on a file, in this process and without a database."""

import logging
import os
import re
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from app.commands.run_progress import RunProgress
from app.commands.terminal import say
from storage.errors import BadSetting, Conflict, InvalidInput, ThumbloopError

if TYPE_CHECKING:
    from storage.imports.formats import ImportOptions
    from storage.settings import Settings

STOPPED = 130  # the shell's exit code for Ctrl-C
NO_REFERENCES = "none"
# Settings whose option has another name.
OTHERWISE_NAMED = {"gradient_checkpointing": "checkpointing", "training_processes": "processes"}


def train_file(
    data: Path,
    out: Path | None,
    *,
    settings: Mapping[str, Any],
    reference_cache: str | None,
    report: Path | None,
    order: Path | None,
    max_rows: int | None,
    skip_bad: bool,
    options: "ImportOptions",
) -> None:
    """Train and print the result; without `out` only print what would be trained on.

    `settings` has the settings with a command line option, by name; None for an option not given.
    """
    _check_is_file(report, "report")
    _check_is_file(order, "order")
    given = {name: value for name, value in settings.items() if value is not None}
    chosen = _settings(given)
    if reference_cache is None:
        references: Path | None = chosen.data_dir
        with suppress(OSError):  # whatever needs the folder reports it
            chosen.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # a server may live in it later
    else:
        references = None if reference_cache == NO_REFERENCES else Path(reference_cache)

    from trainer.launch.environment import prepare_process

    prepare_process()
    if int(os.environ.get("RANK", "0")) > 0:  # a worker of torchrun or accelerate launch
        from trainer.launch.worker import follow_launched

        follow_launched()
        return
    with RunProgress() as progress, lines_above(progress), stop_signals() as check:
        progress.show_progress({}, "loading libraries")
        import torch

        from trainer.errors import Diverged, Interrupted, ProcessLost
        from trainer.launch.launcher import dismiss_launched
        from trainer.offline.train_file import OfflineTraining, plan_on_file, train_on_file

        wanted = OfflineTraining(
            *(data, out, chosen, references),
            max_rows=max_rows,
            skip_bad=skip_bad,
            options=options,
            order=order,
            report=report,
        )
        if out is None:
            refuse_launched()
            plan_on_file(wanted)
            return

        def show(state: dict[str, Any]) -> None:
            progress.show_progress(state, str(state["phase"]))

        try:
            found = train_on_file(wanted, progress=show, check=check)
        except (Interrupted, KeyboardInterrupt):
            progress.stop()
            say("Stopped. The same command goes on from here.")
            raise typer.Exit(STOPPED) from None
        except Diverged as error:
            raise Conflict(_by_options(str(error), settings), code="diverged") from error
        except ProcessLost as error:
            raise Conflict(f"{error} The same command goes on there.", code="process_lost") from error
        except (MemoryError, torch.OutOfMemoryError) as error:
            told = str(error) or f"The training ran out of memory; lower --max-length ({chosen.max_length})."
            raise Conflict(_by_options(told, settings), code="out_of_memory") from error
        except ThumbloopError as error:
            if error.field is None or error.field in given or error.field not in settings:
                error.message = _by_options(error.message, settings)
            raise
        finally:
            dismiss_launched()
    from trainer.text import counted

    together = f" with {found['processes']} processes" if found["processes"] > 1 else ""
    say(
        f"Trained on {counted(found['rows'], 'row')}{together} in {found['seconds']['training']:.1f} s "
        f"({found['seconds_per_row']:.2f} s a row, after {found['seconds']['set_up']:.1f} s of preparation), "
        f"at most {found['peak_memory_mb']:.0f} MiB of memory."
    )
    say(f"The adapter is in {out}.")


def _check_is_file(path: Path | None, name: str) -> None:
    """Refuse a path that cannot be written, before hours of training and not after them."""
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise InvalidInput(f"--{name} {path}: there is no folder {path.absolute().parent}.", field=name)
    if path.is_dir():
        raise InvalidInput(f"--{name} {path} is a folder; name a file in it.", field=name)


def _settings(given: Mapping[str, Any]) -> "Settings":
    """The current settings with those of the command line; errors name a bad one by its option."""
    from storage.settings import load_settings

    try:
        return load_settings(**given)
    except BadSetting as error:
        if error.field is None or error.field not in given:
            raise
        raise InvalidInput(_by_options(error.message, [error.field]), field=error.field) from error


def refuse_launched() -> None:
    """Refuse torchrun and accelerate launch, which would run the command once per process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InvalidInput(
            "torchrun and accelerate launch are for `thumbloop train --data` and `python -m trainer run`; "
            "start this one by itself. A run on votes trains with THUMBLOOP_TRAINING_PROCESSES processes."
        )


def option_of(name: str) -> str:
    """The option of `thumbloop train` for a setting or parameter."""
    return "--" + OTHERWISE_NAMED.get(name, name).replace("_", "-")


def _by_options(message: str, settings: Iterable[str]) -> str:
    """The message with these settings replaced by the options that set them."""
    for name in settings:
        message = message.replace(f"THUMBLOOP_{name.upper()}=", f"{option_of(name)} ")
        message = re.sub(rf"THUMBLOOP_{name.upper()}\b", option_of(name), message)
    return message


@contextmanager
def lines_above(progress: RunProgress) -> Iterator[None]:
    """Print the trainer's log messages as lines above the bar."""

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
    """A check that raises Interrupted after a SIGINT or SIGTERM; a second one stops at once."""
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, signal.default_int_handler)

    def check() -> None:
        if received:
            from trainer.errors import Interrupted

            raise Interrupted("terminated")

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
