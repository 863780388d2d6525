"""Reads a file of rated data as rows: each record is converted and counted, or refused with its position.

Used by storage.imports.importer, and by the trainer to train on a file without a database.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from storage.errors import InvalidInput
from storage.imports.files.records import Record
from storage.imports.files.source import Source
from storage.imports.formats.table import Format, check_options, known_formats, rows_of, sniff
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import ImportedRow

SNIFFED = 20  # the file is refused after this many records without a known format
KEPT_REJECTIONS = 100
PROGRESS_EVERY = 1000  # records


@dataclass(frozen=True)
class Rejection:
    position: str  # "line 3", "element 3", "row 3"; in a folder, after the file's name
    reason: str


@dataclass
class ImportReport:
    """The result of an import. A record may give several rows: a pair gives two."""

    format: str | None = None  # None if no record showed it
    records: int = 0
    accepted: int = 0  # rows
    duplicates: int = 0  # rows
    dropped: Counter[str] = field(default_factory=Counter)  # rows by reason: an option, or no vote
    rejected: int = 0  # records
    rejections: list[Rejection] = field(default_factory=list)  # the first KEPT_REJECTIONS of them


@dataclass(frozen=True)
class Progress:
    stage: str  # checking, storing, reading
    done_bytes: int
    total_bytes: int
    records: int


@dataclass
class Reading:
    """One pass over the source: yields its rows and fills the report.

    A bad record raises InvalidInput, whose message includes `nothing`; with `skip_bad` it is left out and
    counted in the report.
    """

    source: Source
    format: Format | None
    options: ImportOptions
    skip_bad: bool
    stage: str
    progress: Callable[[Progress], None] = lambda _: None
    nothing: str = "Nothing was imported"
    report: ImportReport = field(default_factory=ImportReport, init=False)

    def __post_init__(self) -> None:
        if self.format is not None:
            check_options(self.format, self.options)

    def rows(self) -> Iterator[tuple[str, ImportedRow]]:
        """Each row with the position of its record."""
        for record in self.source.records():
            self.report.records += 1
            if self.report.records % PROGRESS_EVERY == 0:
                self._tell(record.done)
            if record.value is None:
                self._reject(record, record.fault or "")
            elif (chosen := self._format_of(record)) is not None:
                yield from self._rows_of(record, chosen)
        self.report.format = self.format.name if self.format is not None else None
        self._tell(self.source.size)

    def _rows_of(self, record: Record, chosen: Format) -> Iterator[tuple[str, ImportedRow]]:
        value = record.value or {}
        try:
            for row in rows_of(chosen, value, self.options):
                if isinstance(row, ImportedRow):
                    yield record.position, row
                else:
                    self.report.dropped[row.reason] += row.rows
        except InvalidInput as error:
            other = sniff(value, self.options) or chosen
            hint = f" It looks like the format {other.name}." if other is not chosen else ""
            self._reject(record, f"{error.message}{hint}")

    def _format_of(self, record: Record) -> Format | None:
        """The format, detected from this record if not known yet; None if the record was rejected."""
        if self.format is None:
            self.format = sniff(record.value or {}, self.options)
            if self.format is not None:
                check_options(self.format, self.options)
            else:
                self._reject_format(record)
        return self.format

    def _reject_format(self, record: Record) -> None:
        """Reject a record of no known format; the first of them, without `skip_bad`, ends the import."""
        value = record.value or {}
        reason = f"no known format has these columns: {_columns(value)}."
        lowered = sniff({str(name).lower(): cell for name, cell in value.items()}, self.options)
        if lowered is not None:
            reason += f" In small letters they would be the format {lowered.name}: rename the columns."
        if not self.skip_bad or self.report.records >= SNIFFED:
            raise InvalidInput(
                f"{self.source.name}, {record.position}: {reason} {known_formats()} {self.nothing}.",
                code="unknown_format",
                field="format",
            )
        self._reject(record, reason[0].upper() + reason[1:])

    def _reject(self, record: Record, reason: str) -> None:
        if not self.skip_bad:
            raise InvalidInput(
                f"{self.source.name}, {record.position}: {reason} {self.nothing}; fix it or skip bad rows.",
                code="bad_line",
                field=record.position,
            )
        self.report.rejected += 1
        if len(self.report.rejections) < KEPT_REJECTIONS:
            self.report.rejections.append(Rejection(record.position, reason))

    def _tell(self, done: int) -> None:
        self.progress(Progress(self.stage, done, self.source.size, self.report.records))


def _columns(value: Mapping[Any, Any]) -> str:
    names = [repr(name[:80]) if isinstance(name, str) else str(name) for name in value]
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "") if names else "none"
