"""Shared by all commands: the console, plain tables, and opening the database of the current settings."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import OperationalError

from storage.db.database import Database, open_database
from storage.errors import InvalidInput, NotReady
from storage.files.disk_full import is_full
from storage.settings import Settings, load_settings

ACTOR = "command line"  # its name in the audit log and the deployments

# A pipe has no width: cutting its lines at 80 would break grep, and reading too.
_probe = Console()
console = _probe if _probe.is_terminal else Console(width=240)


@contextmanager
def opened_database() -> Iterator[tuple[Settings, Database]]:
    """The settings and their database, migrated; raises BadSetting, or NotReady if it cannot be opened."""
    settings = load_settings()
    database = open_database(settings)
    try:
        yield settings, database
    except OperationalError as error:
        raise no_answer(error, database.shown_address) from error
    finally:
        database.close()


def no_answer(error: OperationalError, address: str = "") -> NotReady:
    """The error for people when the database is away, or another program holds its lock."""
    name = f"The database {address}" if address else "The database"
    return NotReady(
        f"{name} does not answer ({error.orig}); try again when other programs have finished writing to it.",
        code="database_unavailable",
    )


@contextmanager
def onto_stdout() -> Iterator[None]:
    """Wrap writes to standard output in this; raises NotReady if that is a file on a full disk."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            sys.stdout = None  # prevents a flush at exit, which would fail too
            raise NotReady(
                f"Cannot write to standard output ({error.strerror}); free some disk space.",
                code="no_room",
            ) from error
        raise


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]], *, empty: str = "") -> None:
    """Print a borderless table, or `empty` without rows. The last column takes the remaining width."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    *narrow, last = columns
    for name in narrow:
        table.add_column(name, no_wrap=True)
    table.add_column(last, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text, so that brackets are not markup
    with onto_stdout():
        if table.row_count:
            console.print(table)
        else:
            console.print(empty, highlight=False)


def say(text: str) -> None:
    """Print one line as it is: no markup, no highlighting, no line breaks added."""
    with onto_stdout():
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def shown_time(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC") if moment is not None else ""


def confirm(question: str, *, otherwise: str) -> None:
    """Ask on the terminal; raises InvalidInput for a no, and where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise InvalidInput("No terminal to ask for confirmation; use --yes.", field="yes")
    if not typer.confirm(question):
        raise InvalidInput(otherwise)
