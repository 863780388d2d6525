"""A file of rated data as rows: each record told, converted, counted, or refused with its position.

Knows no database: what becomes of the rows is for storage.imports.importer and for the trainer.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from storage.errors import InvalidInput
from storage.imports.formats import Format, ImportOptions, check_options, known_formats, rows_of, sniff
from storage.imports.records import Record
from storage.imports.rows import ImportedRow
from storage.imports.source import Source

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
    stage: str  # checking, storing, reading
    done_bytes: int
    total_bytes: int
    records: int


class Reading:
    """One way through the source: yields its rows and keeps the report.

    A bad record is refused with InvalidInput, whose message ends with what became of `nothing`; with
    `skip_bad` it is left out and kept in the report.
    """

    def __init__(
        self,
        source: Source,
        format: Format | None,
        options: ImportOptions,
        skip_bad: bool,
        stage: str,
        progress: Callable[[Progress], None],
        nothing: str = "Nothing was imported",
    ) -> None:
        self.format = format
        self.report = ImportReport()
        self._source = source
        self._options = options
        self._skip_bad = skip_bad
        self._stage = stage
        self._progress = progress
        self._nothing = nothing
        self._dropped: Counter[str] = Counter()
        if format is not None:
            check_options(format, options)

    def rows(self) -> Iterator[tuple[str, ImportedRow]]:
        """Each row with the position of its record."""
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

    def _rows_of(self, record: Record, chosen: Format) -> Iterator[tuple[str, ImportedRow]]:
        value = record.value or {}
        try:
            for row in rows_of(chosen, value, self._options):
                if isinstance(row, ImportedRow):
                    yield record.position, row
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
            f"{self._hint(record)} {known_formats()} {self._nothing}.",
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
                f"{self._nothing}; mend it or skip bad rows.",
                code="bad_line",
                field=record.position,
            )
        self.report.rejected += 1
        if len(self.report.rejections) < KEPT_REJECTIONS:
            self.report.rejections.append(Rejection(record.position, reason))

    def _tell(self, done: int) -> None:
        self._progress(Progress(self._stage, done, self._source.size, self.report.records))


def _columns(record: Record) -> str:
    names = [repr(name[:80]) if isinstance(name, str) else str(name) for name in record.value or ()]
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "") if names else "none"
