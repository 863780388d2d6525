"""`thumbloop train --data F --out DIR`: trains on a file, in this process and without a database."""

import logging
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import typer

from app.commands.options import option_name
from app.commands.run_progress import RunProgress
from app.commands.terminal import say
from storage.errors import BadSetting, Conflict, InvalidInput, ThumbloopError
from storage.imports.rows.options import ImportOptions
from storage.settings import Settings, load_settings
from trainer.errors import Diverged, Interrupted, ProcessLost
from trainer.launch.environment import loading, prepare_process
from trainer.text import counted

STOPPED = 130  # the shell's exit code for Ctrl-C
NO_REFERENCES = "none"
# The settings that have an option.
SETTINGS = (
    *("engine", "model", "beta", "learning_rate", "batch_size", "max_length", "lora_rank", "epochs", "seed"),
    *("tuning", "precision", "training_processes", "gradient_checkpointing"),
)
OTHERWISE_NAMED = {"gradient_checkpointing": "checkpointing", "training_processes": "processes"}


def train_file(data: Path, given: Mapping[str, Any]) -> None:
    """Train and print the result; without `out` only print what would be trained on.

    `given` has the options that were given: settings by their names, ImportOptions and those of
    OfflineTraining.
    """
    for name in ("report", "order"):
        _check_is_file(given.get(name), name)
    settings = _settings({name: given[name] for name in SETTINGS if name in given})
    if "reference_cache" not in given:
        references: Path | None = settings.data_dir
        with suppress(OSError):  # whatever needs the folder reports it
            settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # a server may live in it later
    else:
        cache = given["reference_cache"]
        references = None if cache == NO_REFERENCES else Path(cache)
    prepare_process()
    if int(os.environ.get("RANK", "0")) > 0:  # a worker of torchrun or accelerate launch
        with loading():
            from trainer.launch.worker import follow_launched
        follow_launched()
        return
    out = given.get("out")
    with shown_training("training", "resumes the training", settings, _by_options) as (progress, check):
        with loading():
            from trainer.launch.launcher import dismiss_launched
            from trainer.offline.train_file import OfflineTraining, plan_on_file, train_on_file

        wanted = OfflineTraining(
            *(data, out, settings, references),
            options=ImportOptions(
                **{name: given[name] for name in ImportOptions.model_fields if name in given}
            ),
            **{name: given[name] for name in ("max_rows", "skip_bad", "order", "report") if name in given},
        )
        if out is None:
            refuse_launched()
            plan_on_file(wanted)
            return
        try:
            found = train_on_file(wanted, progress=progress.show_progress, check=check)
        except Diverged as error:
            raise Conflict(_by_options(str(error)), code="diverged") from error
        except ProcessLost as error:
            raise Conflict(f"{error} The same command resumes the training.", code="process_lost") from error
        except ThumbloopError as error:
            if error.field is None or error.field in given or error.field not in SETTINGS:
                error.message = _by_options(error.message)
            raise
        finally:
            dismiss_launched()
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


def _settings(given: Mapping[str, Any]) -> Settings:
    """The current settings with those of the command line; errors name a bad one by its option."""
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
    return option_name(OTHERWISE_NAMED.get(name, name))


def _by_options(message: str, settings: Iterable[str] = SETTINGS) -> str:
    """The message with these settings replaced by the options that set them."""
    for name in settings:
        message = message.replace(f"THUMBLOOP_{name.upper()}=", f"{option_of(name)} ")
        message = re.sub(rf"THUMBLOOP_{name.upper()}\b", option_of(name), message)
    return message


@contextmanager
def shown_training(
    work: str, resumes: str, settings: Settings, reword: Callable[[str], str] = str
) -> Iterator[tuple[RunProgress, Callable[[], None]]]:
    """Show a training's progress; gives the bar and a check that raises Interrupted after a signal.

    A stopped training ends with what `resumes` it and exit code 130, and one without memory with Conflict.
    """
    with RunProgress() as progress, _lines_above(progress), _stop_signals() as check:
        progress.show_progress({"phase": "loading libraries"})
        import torch

        try:
            yield progress, check
        except (Interrupted, KeyboardInterrupt):
            progress.stop()
            say(f"Stopped. The same command {resumes}.")
            raise typer.Exit(STOPPED) from None
        except (MemoryError, torch.OutOfMemoryError) as error:
            longest = settings.max_length
            reason = str(error) or f"The {work} ran out of memory; lower THUMBLOOP_MAX_LENGTH ({longest})."
            raise Conflict(reword(reason), code="out_of_memory") from error


@contextmanager
def _lines_above(progress: RunProgress) -> Iterator[None]:
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
def _stop_signals() -> Iterator[Callable[[], None]]:
    """A check that raises Interrupted after a SIGINT or SIGTERM; a second one stops at once."""
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, signal.default_int_handler)

    def check() -> None:
        if received:
            raise Interrupted("terminated")

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
