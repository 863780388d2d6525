"""Other people's feedback in: a file or a folder, read as records, turned into rows, stored as rated chats.

All or nothing: the whole file is checked before the database is locked, and then written in one transaction.
With `skip_bad`, bad records are left out and rows are committed in batches, so that others can write between
them. Either way a row that is there already is counted as a duplicate: importing a file again adds what is
missing, and nothing twice.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sqlmodel import Session

from storage.database import Database
from storage.errors import InvalidInput, NotStored
from storage.import_files import Source, open_source
from storage.import_formats import (
    Format,
    ImportOptions,
    check_options,
    known_formats,
    named_format,
    rows_of,
    sniff,
)
from storage.import_records import Record
from storage.import_rows import ImportedRow
from storage.import_writer import add_rows

NO_OPTIONS = ImportOptions()
BATCH = 500  # rows
# Of a record that may have 16 MiB each, no more than this many are held before they are written.
BATCH_CHARS = 32 * 1024 * 1024
SNIFFED = 20  # records without a known format, after which no more are tried
KEPT_REJECTIONS = 100
PROGRESS_EVERY = 1000  # records


@dataclass(frozen=True)
class Rejection:
    position: str  # "line 3", "element 3", "row 3"; in a folder with the file's name before it
    reason: str


@dataclass
class ImportReport:
    """What became of a file. A record may give several rows: a pair gives two."""

    format: str | None = None  # None where there was no record to tell it from
    records: int = 0
    accepted: int = 0  # rows
    duplicates: int = 0  # rows
    dropped: dict[str, int] = field(default_factory=dict)  # rows by reason: an option, or no vote in them
    rejected: int = 0  # records
    rejections: list[Rejection] = field(default_factory=list)  # the first KEPT_REJECTIONS of them


@dataclass(frozen=True)
class Progress:
    stage: str  # checking, storing
    done_bytes: int
    total_bytes: int
    records: int


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
        reading = _Reading(opened, chosen, options, skip_bad, "storing", progress)
        if not skip_bad:
            check = _Reading(opened, chosen, options, skip_bad, "checking", progress)
            for _ in check.rows():
                pass
            reading.format = check.format
        _store(database, reading, finish, one_transaction=not skip_bad)
        return reading.report


class _Reading:
    """One way through the source: yields its rows and keeps the report."""

    def __init__(
        self,
        source: Source,
        format: Format | None,
        options: ImportOptions,
        skip_bad: bool,
        stage: str,
        progress: Callable[[Progress], None],
    ) -> None:
        self.format = format
        self.report = ImportReport()
        self._source = source
        self._options = options
        self._skip_bad = skip_bad
        self._stage = stage
        self._progress = progress
        self._dropped: Counter[str] = Counter()
        if format is not None:
            check_options(format, options)

    def rows(self) -> Iterator[ImportedRow]:
        for record in self._source.records():
            self.report.records += 1
            if self.report.records % PROGRESS_EVERY == 0:
                self._tell(record.done)
            if record.value is None:
                self._reject(record, record.fault or "")
            elif (chosen := self._format_of(record)) is not None:
                yield from self._rows_of(record, chosen)
        self.report.format = self.format.name if self.format is not None else None
        self.report.dropped = dict(self._dropped)
        self._tell(self._source.size)

    def add(self, session: Session, batch: list[ImportedRow]) -> None:
        """Store rows that `rows` gave, and count them."""
        assert self.format is not None
        added = add_rows(session, batch, f"import:{self.format.name}")
        self.report.accepted += added
        self.report.duplicates += len(batch) - added

    def _rows_of(self, record: Record, chosen: Format) -> Iterator[ImportedRow]:
        value = record.value or {}
        try:
            for row in rows_of(chosen, value, self._options):
                if isinstance(row, ImportedRow):
                    yield row
                else:
                    self._dropped[row.reason] += row.rows
        except InvalidInput as error:
            other = sniff(value, self._options) or chosen
            hint = f" It looks like the format {other.name}." if other is not chosen else ""
            self._reject(record, f"{error.message}{hint}")

    def _format_of(self, record: Record) -> Format | None:
        """The format, if need be told from this record."""
        if self.format is None:
            self.format = sniff(record.value or {}, self._options)
            if self.format is not None:
                check_options(self.format, self._options)
                return self.format
            if not self._skip_bad or self.report.records >= SNIFFED:
                self._refuse_format(record)
            self._reject(
                record, f"No known format has these columns: {_columns(record)}.{self._hint(record)}"
            )
        return self.format

    def _refuse_format(self, record: Record) -> None:
        raise InvalidInput(
            f"{self._source.name}, {record.position}: no known format has these columns: {_columns(record)}."
            f"{self._hint(record)} {known_formats()} Nothing was imported.",
            code="unknown_format",
            field="format",
        )

    def _hint(self, record: Record) -> str:
        lowered = sniff(
            {str(name).lower(): value for name, value in (record.value or {}).items()}, self._options
        )
        if lowered is None:
            return ""
        return f" In small letters they would be the format {lowered.name}: rename the columns."

    def _reject(self, record: Record, reason: str) -> None:
        if not self._skip_bad:
            raise InvalidInput(
                f"{self._source.name}, {record.position}: {reason} "
                f"Nothing was imported; mend it or skip bad rows.",
                code="bad_line",
                field=record.position,
            )
        self.report.rejected += 1
        if len(self.report.rejections) < KEPT_REJECTIONS:
            self.report.rejections.append(Rejection(record.position, reason))

    def _tell(self, done: int) -> None:
        self._progress(Progress(self._stage, done, self._source.size, self.report.records))


def _store(
    database: Database,
    reading: _Reading,
    finish: Callable[[Session, ImportReport], None],
    *,
    one_transaction: bool,
) -> None:
    batches = _batches(reading.rows())
    if not one_transaction:
        kept = 0
        try:
            for batch in batches:
                with database.write() as session:
                    reading.add(session, batch)
                kept = reading.report.accepted
        except NotStored as error:
            raise NotStored(
                f"{error.message} {kept} rows were imported before; the same file again adds the rest.",
                code=error.code,
            ) from error
    with database.write() as session:
        for batch in batches:
            reading.add(session, batch)
        finish(session, reading.report)


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


def _columns(record: Record) -> str:
    names = [repr(name[:80]) if isinstance(name, str) else str(name) for name in record.value or ()]
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "") if names else "none"
