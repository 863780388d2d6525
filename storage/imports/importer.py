"""Other people's feedback in: a file or a folder, read as records, turned into rows, stored as rated chats.

All or nothing: the whole file is checked before the database is locked, and then written in one transaction.
With `skip_bad`, bad records are left out and rows are committed in batches, so that others can write between
them. Either way a row that is there already is counted as a duplicate: importing a file again adds what is
missing, and nothing twice.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from sqlmodel import Session

from storage.db.database import Database
from storage.errors import NotStored
from storage.imports.formats import NO_OPTIONS, ImportOptions, named_format
from storage.imports.reader import ImportReport, Progress, Reading
from storage.imports.rows import ImportedRow
from storage.imports.source import open_source
from storage.imports.writer import add_rows

BATCH = 500  # rows
# Of a record that may have 16 MiB each, no more than this many are held before they are written.
BATCH_CHARS = 32 * 1024 * 1024


def import_file(
    database: Database,
    source: Path | IO[bytes],
    *,
    name: str | None = None,
    format: str | None = None,
    options: ImportOptions = NO_OPTIONS,
    skip_bad: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    finish: Callable[[Session, ImportReport], None] = lambda _, __: None,
) -> ImportReport:
    """Import a file, a folder or a stream; messages call it `name`, whose ending is a hint of its kind.

    Raises InvalidInput: the kind or the format is unknown, an option does not fit, or, unless `skip_bad`, a
    record is bad; its position is the error's `field`. Then nothing was imported. An exception of `progress`
    ends the import likewise; what `skip_bad` committed before stays, and the same file again adds the rest.
    `finish` is called at the end, in the transaction of the rows or, with `skip_bad`, in one of its own.
    """
    with open_source(source, name) as opened:
        chosen = named_format(format) if format is not None else None
        reading = Reading(opened, chosen, options, skip_bad, "storing", progress)
        if not skip_bad:
            check = Reading(opened, chosen, options, skip_bad, "checking", progress)
            for _ in check.rows():
                pass
            reading.format = check.format
        _store(database, reading, finish, one_transaction=not skip_bad)
        return reading.report


def _store(
    database: Database,
    reading: Reading,
    finish: Callable[[Session, ImportReport], None],
    *,
    one_transaction: bool,
) -> None:
    batches = _batches(row for _, row in reading.rows())
    if not one_transaction:
        kept = 0
        try:
            for batch in batches:
                with database.write() as session:
                    _add(session, reading, batch)
                kept = reading.report.accepted
        except NotStored as error:
            raise NotStored(
                f"{error.message} {kept} rows were imported before; the same file again adds the rest.",
                code=error.code,
            ) from error
    with database.write() as session:
        for batch in batches:
            _add(session, reading, batch)
        finish(session, reading.report)


def _add(session: Session, reading: Reading, batch: list[ImportedRow]) -> None:
    """Store rows that the reading gave, and count them."""
    assert reading.format is not None
    added = add_rows(session, batch, f"import:{reading.format.name}")
    reading.report.accepted += added
    reading.report.duplicates += len(batch) - added


def _batches(rows: Iterator[ImportedRow]) -> Iterator[list[ImportedRow]]:
    batch: list[ImportedRow] = []
    chars = 0
    for row in rows:
        batch.append(row)
        chars += sum(len(turn.content) for turn in row.turns)
        if len(batch) == BATCH or chars > BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch
