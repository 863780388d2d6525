"""`thumbloop import` and `thumbloop export`: KTO rows in and out, as files or through pipes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, TextIO

import typer

from app.commands.terminal import opened_database, say
from storage.errors import InvalidInput


class Format(StrEnum):
    jsonl = "jsonl"


def import_feedback(
    file: str = typer.Argument(help="JSON lines in TRL's KTO format, or - for standard input."),
    skip_bad: bool = typer.Option(False, "--skip-bad", help="Leave out bad lines, do not refuse the file."),
) -> None:
    """Import rated chats. A row that is there already is not added again."""
    from storage.imports import import_jsonl

    with opened_database() as (_, database):
        name = "standard input" if file == "-" else file
        with _input(file) as lines:
            report = import_jsonl(database, lines, source_name=name, skip_bad=skip_bad)
    for line, reason in report.rejected:
        say(f"line {line} left out: {reason}")
    say(f"{report.accepted} imported, {report.duplicates} there already, {len(report.rejected)} left out.")


def export_feedback(
    file: str = typer.Argument(help="Where to write, or - for standard output."),
    format: Format = typer.Option(Format.jsonl, help="jsonl: TRL's KTO rows with their provenance."),
) -> None:
    """Export all votes that training may use, with the chats they judge."""
    from storage.exports import export_jsonl
    from storage.secret import load_secret
    from storage.votes import latest_event_id

    rows = 0
    with opened_database() as (settings, database), _output(file) as out, database.read() as session:
        for line in export_jsonl(session, latest_event_id(session), load_secret(settings.data_dir)):
            out.write(line)
            rows += 1
    if file != "-":
        say(f"{rows} rows to {file}.")


@contextmanager
def _input(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(file).open("rb") as lines:
            yield lines
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}.", field="file") from error


@contextmanager
def _output(file: str) -> Iterator[TextIO]:
    if file == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    target = Path(file)
    aside = target.with_name(f"{target.name}.part")
    try:
        with aside.open("w", encoding="utf-8") as out:
            yield out
        aside.replace(target)  # a failed export leaves the last good one as it was
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}.", field="file") from error
    finally:
        aside.unlink(missing_ok=True)
