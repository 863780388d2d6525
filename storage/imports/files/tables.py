"""Reads tables as records: CSV, Parquet, and folders that `datasets` saved.

Rows become Python objects one at a time, so that a batch of long or repeated texts never fills memory. What a
row and a Parquet file may take is in `budget.py`. In CSV cells, only labels (true or false) and messages are
converted here; the rest stays text.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import InvalidInput
from storage.files.spreadsheet_cells import restore_cell
from storage.imports.files import budget
from storage.imports.files.json_records import LINE_DECODER
from storage.imports.files.records import (
    LONGEST_RECORD,
    MIB,
    MOST_VALUES,
    RECORD_MEMORY,
    Record,
    TooLong,
    bounded_lines,
    has_too_many,
    too_long,
    too_many,
)

# Columns of labels: true and false in them are no words.
LABELS = ("label", "kto_tag")
# Columns of plain text, also with the prefix of a pair's side: text that looks like messages stays text.
TEXTS = ("comment", "correction", "system")
# A Thumbloop export is recognised by the first columns, one of pairs by the second. The quote that exports
# put before formulas is removed.
OUR_COLUMNS = ({"message_id", "user_hash"}, {"chosen_message_id", "rejected_message_id"})
# Besides an empty cell, the words that pandas reads as a missing value, and NaT, which it prints for a time.
MISSING = frozenset(
    (
        *("nan", "NaN", "-nan", "-NaN", "NaT", "null", "NULL", "None", "N/A", "n/a", "NA", "<NA>"),
        *("#N/A", "#N/A N/A", "#NA", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
    )
)
GRADIO_LOG = ["conversation", "index", "value", "flag", "timestamp"]  # Gradio writes no cell for value
READING = (pa.ArrowException, OSError, ValueError)

csv.field_size_limit(LONGEST_RECORD)  # the default of 128 KiB is less than a long chat


def read_csv(file: IO[bytes]) -> Iterator[Record]:
    """One record per row below the header; empty cells are null, and so are the words of MISSING.

    But our own exports hold no such words in place of a value.
    """
    lines = _CsvLines(file)
    header, how = _csv_header(lines)
    ours = any(set(header) >= columns for columns in OUR_COLUMNS)
    restore = restore_cell if ours else str
    rows = csv.reader(lines, **how)
    while True:
        lines.record_bytes = 0
        first = lines.number + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(f"line {first}", lines.done, fault=f"This is not CSV: {error}.")
            continue
        except TooLong:
            yield Record(f"line {first}", lines.done, fault=f"{too_long('row')} Reading ends here.")
            return
        if cells:
            found = _csv_record(f"line {first}", lines.done, header, [restore(cell) for cell in cells])
            yield found if ours else _without_missing(found)


def read_parquet(file: IO[bytes], size: int) -> Iterator[Record]:
    """One record per row; `size` is the file's, in bytes."""
    try:
        metadata = pq.ParquetFile(file).metadata
        budget.check_parquet(metadata, size)
        table = pq.ParquetFile(
            file,
            metadata=metadata,
            read_dictionary=budget.repeated_texts(metadata),
            arrow_extensions_enabled=False,  # texts of these types would not be read as dictionaries
        )
        names = _column_names(table.schema_arrow)
    except READING as error:
        raise InvalidInput(f"This is not a Parquet file that can be read: {_first_line(error)}.") from error
    total = max(metadata.num_rows, 1)
    yield from _records(_parquet_batches(table), names, lambda number: size * number // total, size)


def read_dataset(folder: Path, size: int) -> Iterator[Record]:
    """One record per row of every split that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    import datasets  # slow to load, and only folders need it

    try:
        saved = datasets.load_from_disk(str(folder))
        splits = saved if isinstance(saved, dict) else {"": saved}
        total, before = max(sum(map(len, splits.values())), 1), 0
        for name, split in splits.items():
            names = _column_names(split.features.arrow_schema)
            batches = split.with_format("arrow").iter(budget.ROWS_AT_ONCE)
            for record in _records(batches, names, lambda number: number, size):
                done = size * (before + record.done) // total
                yield replace(record, position=f"{name} {record.position}".strip(), done=done)
            before += len(split)
    except (*READING, KeyError, TypeError) as error:
        raise InvalidInput(f"The data set cannot be read: {_first_line(error)}.", field="file") from error


def splits_in(folder: Path) -> tuple[str, ...]:
    """A sentence that names the splits of a saved `DatasetDict`, all of which are read."""
    try:
        splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
    except (OSError, ValueError, KeyError, TypeError):
        return ()  # one data set, or a damaged folder, which is refused when it is read
    return (f"read the splits {', '.join(map(str, splits))}",)


def _records(
    batches: Iterable[Any], names: list[str], done: Callable[[int], int], size: int
) -> Iterator[Record]:
    """The rows of Arrow batches; if a file turns out to be damaged or a bomb, the last record is a fault."""
    number = taken = 0
    allowed = budget.allowed_rows(size)
    try:
        for batch in batches:
            needed = sum(map(budget.python_size, batch.columns))
            taken += needed
            if taken > allowed:
                reason = (
                    f"The rows up to here take more than {allowed // MIB} MiB, which is all that a file of "
                    "this size may unpack to; split the file. Reading ends here."
                )
                yield Record(f"row {number + 1}", done(number), fault=reason)
                return
            small = needed <= RECORD_MEMORY
            for row in range(batch.num_rows):
                number += 1
                position = f"row {number}"
                if not small and (fault := _too_large(batch, row, names)) is not None:
                    yield Record(position, done(number), fault=fault)
                else:
                    yield _table_record(position, done(number), batch, row, names)
            del batch  # so that the next is not a second one in memory
    except READING as error:
        fault = f"The file is damaged: {_first_line(error)}. Reading ends here."
        yield Record(f"row {number + 1}", done(number), fault=fault)


class _CsvLines:
    """Lines as text for the csv module, with a limit: csv would read a quoted cell of any length."""

    def __init__(self, file: IO[bytes]) -> None:
        self.number = 0
        self.done = 0
        self.record_bytes = 0
        self._lines = bounded_lines(file)

    def __iter__(self) -> "_CsvLines":
        return self

    def __next__(self) -> str:
        self.number, self.done, line = next(self._lines)
        self.record_bytes += LONGEST_RECORD + 1 if line is None else len(line)
        if line is None or self.record_bytes > LONGEST_RECORD:
            raise TooLong
        # Bytes that are not UTF-8 become lone surrogates; _csv_record then refuses only that row.
        return line.decode("utf-8-sig" if self.number == 1 else "utf-8", errors="surrogateescape")


def _csv_header(lines: _CsvLines) -> tuple[list[str], dict[str, Any]]:
    """The names of the columns, and how the csv module reads the rows.

    Where a space follows the separators of the header, those of the rows have one, too.
    """
    try:
        first = next(lines, "")
        # Spreadsheets write their separator above the header.
        told = re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE)
        first = next(lines, "") if told else first
        bare = re.sub(r'"[^"]*"', "", first)  # a quoted name may hold more commas than there are columns
        separator = told[1] if told else max(",;\t", key=bare.count)
        spaced = f"{separator} " in first
        how: dict[str, Any] = {"delimiter": separator, "strict": True, "skipinitialspace": spaced}
        header = [name.strip() for name in next(csv.reader([first], **how), [])]
    except TooLong as error:
        raise InvalidInput(too_long("first line")) from error
    except csv.Error as error:
        raise InvalidInput(
            "The first line of the CSV is not a row of column names: they stand in one line, which ends "
            "with a line feed, as in Unix and Windows."
        ) from error
    _refuse_twice([name for name in header if name])
    return header, how


def _csv_record(position: str, done: int, header: list[str], cells: list[str]) -> Record:
    if header == GRADIO_LOG and len(cells) == len(header) - 1:
        header = [name for name in header if name != "value"]
    if len(cells) != len(header):
        fault = f"The row has {len(cells)} cells, but there are {len(header)} columns."
        return Record(position, done, fault=fault)
    if any("\udc80" <= char <= "\udcff" for cell in cells if not cell.isascii() for char in cell):
        return Record(position, done, fault="This is not UTF-8.")
    if any(has_too_many(cell.encode()) for cell in cells if len(cell) > MOST_VALUES):
        return Record(position, done, fault=too_many("cell"))
    named = list(zip(header, cells, strict=True))
    if header.count("") > 1:  # spreadsheets save empty columns that were once used
        unnamed = next((text for name, text in named if text and not name), None)
        if unnamed is not None:
            fault = f"{unnamed[:80]!r} is in one of several columns without a name; name the columns."
            return Record(position, done, fault=fault)
        named = [(name, text) for name, text in named if name]
    return Record(position, done, {name: _cell(name, text) for name, text in named})


def _without_missing(record: Record) -> Record:
    cells = record.value or {}
    words = {name: cell for name, cell in cells.items() if isinstance(cell, str) and cell.strip() in MISSING}
    missing = {name: "" for name, cell in cells.items() if cell is None} | words
    return replace(record, value=cells | dict.fromkeys(words), missing=missing) if missing else record


def _cell(name: str, text: str) -> Any:
    if not text:
        return None
    if name in LABELS and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text[0] in "[{" and not name.endswith(TEXTS):
        try:
            value = LINE_DECODER.decode(text)
        except (ValueError, RecursionError):
            return text
        messages = value if isinstance(value, list) else [value]
        if messages and all(isinstance(m, dict) and m.keys() & {"role", "from"} for m in messages):
            return value
    return text


def _parquet_batches(table: Any) -> Iterator[Any]:
    for at in range(table.num_row_groups):  # a batch of two row groups would need one dictionary of both
        rows = budget.rows_at_once(table.metadata.row_group(at))
        yield from table.iter_batches(batch_size=rows, row_groups=[at])


def _column_names(schema: Any) -> list[str]:
    names: list[str] = schema.names
    _refuse_twice(names)
    return names


def _refuse_twice(names: list[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise InvalidInput(f"The column {name[:80]!r} comes {times} times; keep one of them.")


def _table_record(position: str, done: int, batch: Any, row: int, names: list[str]) -> Record:
    try:
        value = {name: batch.column(at)[row].as_py() for at, name in enumerate(names)}
    except UnicodeDecodeError:
        return Record(position, done, fault="This is not UTF-8.")
    except (*READING, OverflowError) as error:
        return Record(position, done, fault=f"A value cannot be read: {_first_line(error)}.")
    if any(isinstance(cell, str) and len(cell) > LONGEST_RECORD for cell in value.values()):
        return Record(position, done, fault=too_long("text in one cell"))
    return Record(position, done, value)


def _too_large(batch: Any, row: int, names: list[str]) -> str | None:
    """Why the row takes too much memory, if it does."""
    sizes = {name: budget.python_size(batch.column(at).slice(row, 1)) for at, name in enumerate(names)}
    if sum(sizes.values()) <= RECORD_MEMORY:
        return None
    largest = max(sizes, key=lambda name: sizes[name])
    return (
        f"The row needs more than {RECORD_MEMORY // MIB} MiB of memory, most of it for the column "
        f"{largest[:80]!r}; split the row or leave it out."
    )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")[:200]
