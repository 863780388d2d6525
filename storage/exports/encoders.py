"""Encodes rows as JSON lines, CSV or Parquet, as a stream in constant memory.

The same rows give the same bytes: fixed column order, fixed row groups, no timestamps.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.exports.shapes import Kind, Row

Columns = dict[str, Kind]
Encoder = Callable[[Iterable[Row], Columns], Iterator[bytes]]

# Text formats yield pieces of about this many characters: a write per row would cost more than the row.
PIECE = 64 * 1024
# A Parquet row group ends after this many rows or this much text, whichever is first.
GROUP_ROWS = 2_000
GROUP_CHARACTERS = 8 * 1024 * 1024

# Spreadsheets read a cell that begins with one of these as a formula, or drop the character and look at the
# next. The quote that prevents this is in the list too, so that removing one quote always restores the cell.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")

_ARROW_TYPES = {
    Kind.TEXT: pa.string(),
    Kind.FLAG: pa.bool_(),
    Kind.TAGS: pa.list_(pa.string()),
    Kind.MESSAGES: pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
    Kind.TURNS: pa.list_(pa.struct({"from": pa.string(), "value": pa.string()})),
}


def jsonl(rows: Iterable[Row], columns: Columns) -> Iterator[bytes]:
    """One JSON object per line. Tags are a JSON string: `datasets` cannot infer an empty list's type."""
    tags = [name for name, kind in columns.items() if kind is Kind.TAGS]
    lines = (_json(row | {name: _json(row[name]) for name in tags}) + "\n" for row in rows)
    return _pieces(lines)


def csv_table(rows: Iterable[Row], columns: Columns) -> Iterator[bytes]:
    """CSV after RFC 4180, in UTF-8, with a header; lists and booleans are JSON.

    Text that a spreadsheet could read as a formula gets a leading single quote; `restore_cell` removes it.
    """
    return _pieces(_csv_lines(rows, columns))


def parquet(rows: Iterable[Row], columns: Columns) -> Iterator[bytes]:
    """One Parquet file with zstd-compressed row groups."""
    schema = pa.schema([(name, _ARROW_TYPES[kind]) for name, kind in columns.items()])
    sink = _Sink()
    writer = pq.ParquetWriter(sink, schema, compression="zstd")
    for group in _groups(rows):
        writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=GROUP_ROWS)
        yield sink.take()
    writer.close()
    yield sink.take()


ENCODERS: dict[str, Encoder] = {"jsonl": jsonl, "csv": csv_table, "parquet": parquet, "datasets": parquet}


def defuse_cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def restore_cell(text: str) -> str:
    """Undo defuse_cell."""
    return text.removeprefix("'")


def _csv_lines(rows: Iterable[Row], columns: Columns) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for row in rows:
        writer.writerow(_cell(row[name], kind) for name, kind in columns.items())
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _cell(value: Any, kind: Kind) -> str:
    return defuse_cell(value) if kind is Kind.TEXT else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _pieces(texts: Iterable[str]) -> Iterator[bytes]:
    parts: list[str] = []
    size = 0
    for text in texts:
        parts.append(text)
        size += len(text)
        if size >= PIECE:
            yield "".join(parts).encode()
            parts, size = [], 0
    if parts:
        yield "".join(parts).encode()


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += sum(_characters(value) for value in row.values())
        if len(group) >= GROUP_ROWS or size >= GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(_characters(item) for item in value)
    return sum(len(text) for text in value.values()) if isinstance(value, dict) else 1


class _Sink(io.RawIOBase):
    """A write-only file that buffers what is written until `take`."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken
