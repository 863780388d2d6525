"""Imports a file or folder of rated data: reads records, converts them to rows, stores these as rated chats.

An import is all or nothing: the file is checked completely before the database is locked, then written in one
transaction. With `skip_bad`, bad records are left out and rows are committed in batches, so that others can
write in between. Either way existing rows count as duplicates: importing a file again adds only what is
missing.
"""

import sys
from collections.abc import Callable
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import IO

from sqlmodel import Session

from storage.batches import batches
from storage.db.database import Database
from storage.db.rows import refresh_statistics
from storage.db.tables import Chat, Message, Vote, VoteEvent
from storage.errors import NotStored
from storage.imports.files.records import MIB
from storage.imports.files.source import open_source
from storage.imports.formats.table import named_format
from storage.imports.reader import ImportReport, Progress, Reading
from storage.imports.rows.format import JUDGED
from storage.imports.rows.options import NO_OPTIONS, ImportOptions
from storage.imports.rows.row import ImportedRow
from storage.imports.writer import add_rows

BATCH = 500  # rows
# A record may have 16 MiB, so a batch is also written once it takes about this many bytes of memory.
BATCH_MEMORY = 16 * MIB
MESSAGE = 2048  # bytes that a message takes besides its text, until it is in the database


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
    """Import a file, a folder or a stream; messages call it `name`, whose suffix helps to detect its kind.

    Raises InvalidInput, with nothing imported, if the kind or format is unknown, an option does not fit, or,
    without `skip_bad`, a record is bad; `field` is then its position. An exception from `progress` also ends
    the import; batches that `skip_bad` committed stay, and importing the file again adds the rest. `finish`
    is called at the end, in the transaction of the rows or, with `skip_bad`, in its own.
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
    rows = (row for _, row in reading.rows())
    grouped = batches(rows, _memory, most_items=BATCH, most_size=BATCH_MEMORY)
    if not one_transaction:
        kept = 0
        try:
            for batch in grouped:
                with database.write() as session:
                    _add(session, reading, batch)
                kept = reading.report.accepted
                del batch  # so that the next is not a second one in memory
        except NotStored as error:
            raise NotStored(
                f"{error.message} {kept} rows were imported before; the same file again adds the rest.",
                code=error.code,
            ) from error
    with database.write() as session:
        for batch in grouped:
            _add(session, reading, batch)
            del batch
        if reading.report.accepted >= BATCH:
            refresh_statistics(session, Chat, Message, Vote, VoteEvent)
        finish(session, reading.report)


def _add(session: Session, reading: Reading, batch: list[ImportedRow]) -> None:
    """Store a batch of rows and count it in the report."""
    assert reading.format is not None
    report = reading.report
    for judge, rows in groupby(batch, attrgetter("judge")):
        source = f"{JUDGED}{judge}" if judge else f"import:{reading.format.name}"
        added = add_rows(session, list(rows), source, reading.began)
        report.accepted += added.added
        report.changed += added.changed
        report.duplicates += added.duplicates
        report.dropped += added.dropped


def _memory(row: ImportedRow) -> int:
    texts = (
        row.comment,
        row.correction,
        row.model,
        *row.tags,
        *(text for turn in row.turns for text in turn[1:]),
    )
    return MESSAGE * len(row.turns) + sum(map(sys.getsizeof, texts))
