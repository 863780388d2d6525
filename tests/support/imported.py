"""What the tests of imports share: a file as records, and a record as rows."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from storage.chats import votes
from storage.db.database import Database
from storage.db.tables import Chat, Message, Vote, VoteEvent
from storage.errors import InvalidInput
from storage.imports.files.records import Record
from storage.imports.files.source import open_source
from storage.imports.formats.table import named_format, rows_of, sniff
from storage.imports.reader import ImportReport, Reading
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped, ImportedRow, LeftOutColumn
from tests.support.rated_store import exported_lines

ROW = {
    "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    "completion": [{"role": "assistant", "content": "Hello! ☀ \u2028 end"}],
    "label": True,
}
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
    return [row for row in rows_of(known, record, options) if not isinstance(row, LeftOutColumn)]


def left_out(record: dict[str, Any], options: ImportOptions = THRESHOLDS) -> list[str]:
    """The columns that the report would name."""
    known = sniff(record, options)
    assert known is not None
    return [row.name for row in rows_of(known, record, options) if isinstance(row, LeftOutColumn)]


def row(record: dict[str, Any], options: ImportOptions = THRESHOLDS) -> ImportedRow:
    (only,) = convert(record, options)
    assert isinstance(only, ImportedRow)
    return only


def rows_in(
    source: Path | bytes, options: ImportOptions = ImportOptions(), *, format: str | None = None
) -> tuple[list[ImportedRow], ImportReport]:
    """The rows of a file without a database, and the report; a bad record raises InvalidInput."""
    with open_source(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
        known = named_format(format) if format is not None else None
        reading = Reading(opened, known, options, False, "reading")
        return [found for _, found in reading.rows()], reading.report


def lines(*rows: dict[str, Any] | bytes) -> io.BytesIO:
    return io.BytesIO(b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows))


def short(rows: Sequence[ImportedRow | Dropped]) -> list[Any]:
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


def open_webui(**data: Any) -> dict[str, Any]:
    """A feedback as Open WebUI exports it, of a chat in which the first reply was regenerated."""

    def message(id: str, parent: str | None, role: str, content: str, **more: Any) -> dict[str, Any]:
        return {"id": id, "parentId": parent, "childrenIds": [], "role": role, "content": content, **more}

    messages = {
        "u1": message("u1", None, "user", "Hi", models=["m"]),
        "a1": message("a1", "u1", "assistant", "First", model="m"),
        "a2": message("a2", "u1", "assistant", "Second", model="m"),
        "u2": message("u2", "a2", "user", "More"),
        "a3": message("a3", "u2", "assistant", "Third"),
    }
    return {
        "id": "f1",
        "user_id": "someone",
        "version": 0,
        "type": "rating",
        "data": {"rating": 1, "model_id": "llama3.2:1b", "reason": "", "comment": "", "tags": []} | data,
        "meta": {"arena": False, "model_id": "m", "message_id": "a3", "message_index": 4, "chat_id": "c1"},
        "snapshot": {
            "chat": {
                "id": "c1",
                "user_id": "someone",
                "title": "Greetings",
                "chat": {"models": ["m"], "params": {}, "history": {"messages": messages, "currentId": "a3"}},
            }
        },
        "created_at": 1_700_000_000,
        "updated_at": 1_700_000_060,
    }


def feel(*messages: tuple[str, Any, Any], **more: Any) -> dict[str, Any]:
    chat = [{"role": role, "content": content, "rating": rating} for role, content, rating in messages]
    return {
        "conversation": chat,
        "timestamp": "2025-03-01T12:00:00.5",
        "session_id": "s",
        "language": "English",
    } | more


def numbered(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [ROW | {"prompt": f"Question {n}", "label": n % 3 > 0} for n in range(start, start + count)]


def counts(report: ImportReport) -> tuple[int, int, int, int]:
    return report.accepted, report.duplicates, sum(report.dropped.values()), report.rejected


def exported(database: Database, columns: tuple[str, ...] = tuple(ROW)) -> list[dict[str, Any]]:
    with database.read() as session:
        rows = [json.loads(line) for line in exported_lines(session, votes.latest_event_id(session))]
    return [{name: row[name] for name in columns} for row in rows]


def is_empty(database: Database) -> bool:
    with database.read() as session:
        return not any(session.exec(select(table)).first() for table in (Chat, Message, Vote, VoteEvent))
