"""Reads a file of rated data as rows: each record is converted and counted, or refused with its position.

Used by storage.imports.importer, and by the trainer to train on a file without a database.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from storage.db.tables import now
from storage.errors import InvalidInput
from storage.imports.files.records import Record
from storage.imports.files.source import Source
from storage.imports.formats.hints import hint
from storage.imports.formats.table import check_options, known_formats, rows_of, sniff
from storage.imports.raters import Together
from storage.imports.rows.format import Format
from storage.imports.rows.missing import why_none, with_words
from storage.imports.rows.options import ImportOptions, shown_columns
from storage.imports.rows.row import ImportedRow, LeftOutColumn

SNIFFED = 20  # the file is refused after this many records without a known format
KEPT_REJECTIONS = 100
KEPT_COLUMNS = 100  # names of columns in the report
MOST_GROUPED = 10_000  # records that are one, such as the messages of a tree
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
    changed: int = 0  # votes of an earlier import that the same person changed later
    dropped: Counter[str] = field(default_factory=Counter)  # rows by reason: an option, or no vote
    left_out: Counter[str] = field(default_factory=Counter)  # columns that were not imported, by records
    notes: list[str] = field(default_factory=list)  # which files of a folder were read
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
    began: datetime = field(default_factory=now, init=False)

    def __post_init__(self) -> None:
        if self.format is not None:
            check_options(self.format, self.options)

    def rows(self) -> Iterator[tuple[str, ImportedRow]]:
        """Each row with the position of its record."""
        if self.options.raters not in ("mean", "majority"):
            yield from self._rows()
            return
        votes, first = Together(self.options), replace(self)
        for _, row in first._rows():
            if first.format is None or not first.format.rated_apart:
                break
            votes.add(row)
        self.format = first.format
        for position, row in self._rows():
            assert self.format is not None
            for found in votes.of(row) if self.format.rated_apart else (row,):
                if isinstance(found, ImportedRow):
                    yield position, found
                else:
                    self.report.dropped[found.reason] += found.rows

    def _rows(self) -> Iterator[tuple[str, ImportedRow]]:
        for record in self._grouped(self._counted()):
            if record.value is None:
                self._reject(record, record.fault or "")
            else:
                yield from self._converted(record, record.value)
        self.report.notes += self.source.notes
        self.report.format = self.format.name if self.format is not None else None
        self._tell(self.source.size)

    def _counted(self) -> Iterator[Record]:
        for record in self.source.records():
            self.report.records += 1
            if self.report.records % PROGRESS_EVERY == 0:
                self._tell(record.done)
            yield record

    def _grouped(self, records: Iterator[Record]) -> Iterator[Record]:
        """The records; neighbours that the format takes as one are one, at the position of the first."""
        first: Record | None = None
        rows: list[dict[str, Any]] = []
        held: Any = None
        for record in records:
            known = self.format or sniff(record.value or {}, self.options)
            name = known.group if known is not None else None
            mark = record.value.get(name) if record.value is not None and name is not None else None
            if first is not None and (mark != held or len(rows) >= MOST_GROUPED):
                yield replace(first, value={"rows": rows})
                first, rows = None, []
            if record.value is None or mark is None:
                yield record
            else:
                first, held = first or record, mark
                rows.append(record.value)
        if first is not None:
            yield replace(first, value={"rows": rows})

    def _converted(self, record: Record, value: dict[str, Any]) -> Iterator[tuple[str, ImportedRow]]:
        missing = record.missing or {}
        try:
            if missing:
                value, missing = with_words(value, missing, self.options)
            value = self.options.renamed(value)
        except InvalidInput as error:
            self._reject(record, error.message)
        else:
            if (chosen := self._format_of(record, value, missing)) is not None:
                yield from self._rows_of(record, value, chosen, missing)

    def _rows_of(
        self, record: Record, value: dict[str, Any], chosen: Format, missing: Mapping[str, str]
    ) -> Iterator[tuple[str, ImportedRow]]:
        try:
            for row in rows_of(chosen, value, self.options):
                if isinstance(row, ImportedRow):
                    yield record.position, row
                elif isinstance(row, LeftOutColumn):
                    known = row.name in self.report.left_out or len(self.report.left_out) < KEPT_COLUMNS
                    self.report.left_out[row.name if known else "other columns"] += 1
                else:
                    self.report.dropped[row.reason] += row.rows
        except InvalidInput as error:
            if error.field and (why := why_none(missing, self.options, error.field)) is not None:
                self.report.dropped[why] += 1
                return
            other = sniff(value, self.options) or chosen
            hint = ""
            if other is not chosen:
                hint = f" It looks like the format {other.name}; all of a file or folder is {chosen.name}."
            self._reject(record, f"{error.message}{self._yours(error)}{hint}")

    def _yours(self, error: InvalidInput) -> str:
        """Which column of the file the error is about, where `columns` gave it another name."""
        yours = {ours: name for name, ours in self.options.meant.items()}
        name = yours.get(error.field or "")
        return f" ({error.field} is your column {name!r}.)" if name not in (None, error.field) else ""

    def _format_of(self, record: Record, value: dict[str, Any], missing: Mapping[str, str]) -> Format | None:
        """The format, detected from this record if not known yet; None if the record has no rows."""
        if self.format is None:
            self.format = sniff(value, self.options)
            if self.format is not None:
                check_options(self.format, self.options)
            elif (why := why_none(missing, self.options)) and sniff(value | dict(missing), self.options):
                self.report.dropped[why] += 1
            else:
                self._reject_format(record, value)
        return self.format

    def _reject_format(self, record: Record, value: dict[str, Any]) -> None:
        """Reject a record of no known format; the first of them, without `skip_bad`, ends the import."""
        reason = f"no known format has these columns: {shown_columns(value)}."
        lowered = sniff({str(name).lower(): cell for name, cell in value.items()}, self.options)
        if lowered is not None:
            reason += f" In small letters they would be the format {lowered.name}: rename the columns."
        else:
            reason += hint(value)
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
