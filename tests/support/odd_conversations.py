"""Prompts of all shapes that people send, and a comparison of two stores by what was said in them."""

import itertools
import json
from pathlib import Path
from typing import Any

from storage.db.database import Database, open_database
from storage.exports.exporter import Export, export_to
from storage.exports.plan import ExportPlan
from storage.imports import importer
from storage.settings import Settings
from tests.support.rated_store import SALT

Messages = list[dict[str, Any]]
OTHER_IN_ANOTHER_STORE = ("message_id", "chat_id", "user_hash", "model_version", "source")


def messages(written: str) -> Messages:
    """The messages of "system:A;user:B"."""
    return [dict(zip(("role", "content"), one.split(":", 1), strict=True)) for one in written.split(";")]


# Each ends with a question of its own, so that every one gives an example of its own.
PROMPTS: list[Messages] = [
    messages(f"{before};user:Question {number}?".strip(";"))
    for number, before in enumerate(
        [
            "",
            "system:",
            "system: ",
            "developer:Brief.",
            "system:Brief.;system:Kind.",
            "system:;developer:Kind.;system:",
            "user:One",
            "user:One;user:",
            "assistant:Hello",
            "system:Brief.;assistant:Hello",
            "user:One;assistant:;user:Two",
            "user:One;assistant:A;assistant:B",
            "user:One;system:Late.",
            "user:One;assistant:A;system:Late.;system:",
            *(";".join(roles) for roles in itertools.permutations(["system:S", "user:U", "assistant:A"])),
        ]
    )
]


def what_was_said(database: Database, shape: str, **plan: Any) -> bytes:
    """The exported bytes, but for what must be another in another store: ids, voter, version and source."""
    with database.read() as session:
        export = Export(session, ExportPlan.model_validate({"shape": shape, **plan}), salt=SALT)
        data = b"".join(export.chunks()).decode()
    rows = [json.loads(line) for line in data.split("\n")[:-1]]
    kept = [
        {
            name: value
            for name, value in row.items()
            if not name.endswith(OTHER_IN_ANOTHER_STORE) or str(value).startswith("judge:")
        }
        for row in rows
    ]
    return json.dumps(kept, ensure_ascii=False).encode()


def comes_back(database: Database, folder: Path, shape: str, format: str = "jsonl") -> None:
    """Export, import into an empty store, export again: the bytes are the same."""
    file = folder / f"{shape}.{format}"
    with database.read() as session:
        plan = ExportPlan.model_validate({"shape": shape, "format": format})
        export_to(file, Export(session, plan, salt=SALT))
    other = open_database(Settings(data_dir=folder / f"store of {shape}.{format}"))
    try:
        report = importer.import_file(other, file)
        assert report.rejected == 0 < report.accepted, report.rejections
        assert what_was_said(other, shape) == what_was_said(database, shape)
    finally:
        other.close()
