"""Votes on known texts, and what an export makes of them, for the tests of exports."""

import csv
import io
import json
from typing import Any

import pyarrow.parquet as pq
from sqlmodel import Session

from storage.db.database import Database
from storage.exports.exporter import Export
from storage.exports.plan import ExportPlan
from storage.exports.shapes import COLUMNS, ChatTemplate, Kind
from storage.files.spreadsheet_cells import restore_cell
from tests.support.rows import rate

SALT = b"s" * 32
SHAPES = sorted(COLUMNS)
# What breaks careless formats: quotes, newlines, separators, Unicode of all planes, formulas, empty space.
NASTY = [
    "=1+1",
    "+49 30 1234",
    "-2\n- item",
    "@everyone",
    "\tindented",
    "\r\nnew line first",
    "'quoted' and \"double\", with; separators",
    "null",
    "\u2028line separator\u2029 ☀ 🎉 e\u0301 \U0001f9d1\u200d\U0001f680",
    "\x01\x1f\x7f control",
    " ",
    "[1, 2]",
    '{"role": "user"}',
    "x" * 5000,
]


def exported_lines(session: Session, snapshot: int, salt: bytes = SALT) -> list[str]:
    """The lines of an export of everything, as of a snapshot."""
    export = Export(session, ExportPlan(), salt=salt, snapshot_event_id=snapshot)
    return b"".join(export.chunks()).decode().split("\n")[:-1]


def fill(database: Database, rows: int = 40) -> None:
    """Votes on nasty texts, some with tags and comments; every third prompt has an up and a down."""
    with database.write() as session:
        for number in range(rows):
            text = NASTY[number % len(NASTY)]
            answers = {f"{text} {number}": number % 3 != 1}
            if number % 3 == 0:
                answers[f"{number} {text}"] = False
            rate(
                session,
                f"{text}?",
                answers,
                system_prompt="Be kind." if number % 2 else "",
                tags=["clear"] if number > rows // 2 else [],
                comment=text if number % 5 == 0 else None,
            )


def template(messages: list[dict[str, str]], generate: bool) -> str:
    text = "".join(f"<{m['role']}>{m['content']}</>" for m in messages)
    return text + "<assistant>" if generate else text


def content(database: Database, **plan: Any) -> bytes:
    with database.read() as session:
        export = Export(session, ExportPlan(**plan), salt=SALT, template=ChatTemplate(template))
        return b"".join(export.chunks())


def exported_rows(database: Database, **plan: Any) -> list[dict[str, Any]]:
    """The rows of an export, read back by each format's usual reader."""
    data = content(database, **plan)
    columns = COLUMNS[plan.get("shape", "kto")]
    if plan.get("format") == "parquet":
        return list(pq.read_table(io.BytesIO(data)).to_pylist())
    if plan.get("format") == "csv":
        cells = csv.DictReader(io.StringIO(data.decode(), newline=""))
        return [
            {
                name: restore_cell(cell) if columns[name] is Kind.TEXT else json.loads(cell)
                for name, cell in row.items()
            }
            for row in cells
        ]
    rows = [json.loads(line) for line in data.decode().split("\n")[:-1]]
    for row in rows:
        row |= {name: json.loads(row[name]) for name in columns if columns[name] is Kind.TAGS}
    return rows
