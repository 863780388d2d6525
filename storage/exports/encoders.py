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

from storage.batches import batches
from storage.exports.shapes import Kind, Row
from storage.files.spreadsheet_cells import defuse_cell

Columns = dict[str, Kind]
Encoder = Callable[[Iterable[Row], Columns, int], Iterator[bytes]]

# Text formats yield pieces of about this many characters: a write per row would cost more than the row.
PIECE = 64 * 1024
# A piece or a Parquet row group ends after this many rows at most, a row group also after this much text.
MOST_ROWS = 2_000
GROUP_CHARACTERS = 8 * 1024 * 1024

_ARROW_TYPES = {
    Kind.TEXT: pa.string(),
    Kind.FLAG: pa.bool_(),
    Kind.NUMBER: pa.float64(),
    Kind.TAGS: pa.list_(pa.string()),
    Kind.MESSAGES: pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
    Kind.REASONED: pa.list_(
        pa.struct({"role": pa.string(), "content": pa.string(), "reasoning_content": pa.string()})
    ),
    Kind.TOOLED: pa.list_(
        pa.struct(
            {
                **{name: pa.string() for name in ("role", "content", "reasoning_content")},
                "tool_calls": pa.list_(
                    pa.struct(
                        {
                            "id": pa.string(),
                            "type": pa.string(),
                            "function": pa.struct({"name": pa.string(), "arguments": pa.string()}),
                        }
                    )
                ),
                **{name: pa.string() for name in ("name", "tool_call_id")},
            }
        )
    ),
    Kind.TURNS: pa.list_(pa.struct({"from": pa.string(), "value": pa.string()})),
    Kind.LIST: pa.list_(pa.string()),
}
_ARROW_TYPES[Kind.CHAT] = _ARROW_TYPES[Kind.MESSAGES]
_ARROW_TYPES[Kind.INPUT] = pa.struct(
    {
        "messages": _ARROW_TYPES[Kind.CHAT],
        "tools": pa.list_(pa.string()),
        "parallel_tool_calls": pa.bool_(),
    }
)


def jsonl(rows: Iterable[Row], columns: Columns, most_rows: int = MOST_ROWS) -> Iterator[bytes]:
    """One JSON object per line. Tags are a JSON string: `datasets` cannot infer an empty list's type."""
    tags = [name for name, kind in columns.items() if kind is Kind.TAGS]
    lines = (_json(row | {name: _json(row[name]) for name in tags}) + "\n" for row in rows)
    return _pieces(lines, most_rows)


def csv_table(rows: Iterable[Row], columns: Columns, most_rows: int = MOST_ROWS) -> Iterator[bytes]:
    """CSV after RFC 4180, in UTF-8, with a header; lists and booleans are JSON.

    Text that a spreadsheet could read as a formula gets a leading single quote.
    """
    return _pieces(_csv_lines(rows, columns), most_rows)


def parquet(rows: Iterable[Row], columns: Columns, most_rows: int = MOST_ROWS) -> Iterator[bytes]:
    """One Parquet file with zstd-compressed row groups."""
    schema = pa.schema([(name, _ARROW_TYPES[kind]) for name, kind in columns.items()])
    buffer = io.BytesIO()
    writer = pq.ParquetWriter(buffer, schema, compression="zstd")
    for group in batches(rows, _characters, most_items=most_rows, most_size=GROUP_CHARACTERS):
        writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=most_rows)
        yield _taken(buffer)
    writer.close()
    yield _taken(buffer)


ENCODERS: dict[str, Encoder] = {"jsonl": jsonl, "csv": csv_table, "parquet": parquet, "datasets": parquet}


def _csv_lines(rows: Iterable[Row], columns: Columns) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for row in rows:
        writer.writerow(
            defuse_cell(row[name]) if kind is Kind.TEXT else _json(row[name])
            for name, kind in columns.items()
        )
        yield _taken(buffer)
    yield _taken(buffer)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _pieces(texts: Iterable[str], most_rows: int) -> Iterator[bytes]:
    for piece in batches(texts, len, most_items=most_rows, most_size=PIECE):
        yield "".join(piece).encode()


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_characters, value))
    return sum(map(_characters, value.values())) if isinstance(value, dict) else 1


def _taken(buffer: Any) -> Any:
    """What was written to this StringIO or BytesIO, which is empty afterwards."""
    written = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return written
