"""Judged replies as examples of this installation, with the source `judge:NAME`."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from app.judge.pool import write_lines
from storage.db.database import Database
from storage.imports.importer import import_file
from storage.imports.reader import ImportReport


def store_rows(database: Database, rows: Sequence[dict[str, Any]], beside: Path) -> ImportReport:
    """Import rows of `kto_rows`, as `thumbloop import` would; those that are there are not added again."""
    with TemporaryDirectory(dir=beside) as folder:
        file = Path(folder) / "rows.jsonl"
        write_lines(file, rows)
        return import_file(database, file) if rows else ImportReport()
