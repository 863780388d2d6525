"""What the tests of imports share: a file as records, and a record as rows."""

import io
from pathlib import Path
from typing import Any

import pytest

from storage.errors import InvalidInput
from storage.imports.formats import ImportOptions, rows_of, sniff
from storage.imports.records import Record
from storage.imports.rows import Dropped, ImportedRow
from storage.imports.source import open_source

ROWS: list[dict[str, Any]] = [
    {"prompt": "What is ☀?", "completion": 'The "sun",\nsaid they.', "label": True},
    {"prompt": "Müßig?", "completion": "=1+1", "label": False},
]
MESSAGES: list[dict[str, Any]] = [
    {
        "prompt": [{"role": "user", "content": f"Question {n}"}],
        "completion": [{"role": "assistant", "content": "Answer"}],
        "label": n % 2 == 0,
    }
    for n in range(5)
]
THRESHOLDS = ImportOptions(up_from=4, down_to=2)


def convert(record: dict[str, Any], options: ImportOptions = THRESHOLDS) -> list[ImportedRow | Dropped]:
    known = sniff(record, options)
    assert known is not None
    return list(rows_of(known, record, options))


def row(record: dict[str, Any], options: ImportOptions = THRESHOLDS) -> ImportedRow:
    (only,) = convert(record, options)
    assert isinstance(only, ImportedRow)
    return only


def short(rows: list[ImportedRow | Dropped]) -> list[Any]:
    """(roles' first letters, reply, label) of each row, or the reason it was dropped."""
    return [
        r.reason
        if isinstance(r, Dropped)
        else ("".join(turn.role[0] for turn in r.turns), r.turns[-1].content, r.label)
        for r in rows
    ]


def reason(record: dict[str, Any], options: ImportOptions = THRESHOLDS) -> str:
    with pytest.raises(InvalidInput) as caught:
        convert(record, options)
    return caught.value.message


def read(source: Path | bytes, name: str | None = None) -> list[Record]:
    with open_source(io.BytesIO(source) if isinstance(source, bytes) else source, name) as opened:
        records = list(opened.records())
        assert list(opened.records()) == records  # an import reads its file twice
        assert all(0 <= record.done <= opened.size for record in records)
        assert records == sorted(records, key=lambda record: record.done)
    return records


def values(records: list[Record]) -> list[dict[str, Any] | None]:
    assert [record.fault for record in records if record.fault] == []
    return [record.value for record in records]
