"""Exported files: whole or not there at all, with a manifest that says what they are, on both engines."""

import hashlib
import json
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storage.chats import votes
from storage.db.database import Database
from storage.errors import Conflict, InvalidInput, NotReady
from storage.examples.filters import ExampleFilter
from storage.exports.exporter import Export, export_to
from storage.exports.plan import ExportPlan
from storage.exports.shapes import ChatTemplate
from tests.support.rated_store import SALT, fill
from tests.support.rows import rate

FORMATS = ["jsonl", "csv", "parquet", "datasets"]

# Run with a limit on the size of any file, which is what a full disk looks like to a program.
EXPORT_WITHOUT_ROOM = """
import json, resource, sys
from pathlib import Path
from storage.db.database import Database
from storage.errors import NotReady
from storage.exports.plan import ExportPlan
from storage.exports.shapes import ChatTemplate
from storage.exports.exporter import Export, export_to

address, folder = sys.argv[1:]
database = Database(address)
told = {}
with database.read() as session:
    for format in ("jsonl", "csv", "parquet", "datasets"):
        plan = ExportPlan(format=format)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        try:
            export_to(Path(folder) / f"new-{format}", Export(session, plan, salt=b"s" * 32))
        except NotReady as error:
            told[format] = [error.code, error.message]
        if format != "datasets":
            try:
                export_to(Path(folder) / f"old-{format}", Export(session, plan, salt=b"s" * 32))
            except NotReady:
                pass
print(json.dumps(told))
"""


def export(database: Database, target: Path, **plan: Any) -> dict[str, Any]:
    with database.read() as session:
        return export_to(target, Export(session, ExportPlan(**plan), salt=SALT))


def test_a_full_disk_leaves_no_half_file_and_no_damaged_old_one(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    with database.write() as session:
        for number in range(300):
            noise = hashlib.sha512(str(number).encode()).hexdigest()  # zstd cannot make it small
            rate(session, noise, {noise[::-1]: True})
    folder = tmp_path / "exports"
    folder.mkdir()
    old = {folder / f"old-{format}" for format in FORMATS[:3]}
    for file in old:
        file.write_text("the last good export")
    done = subprocess.run(
        [sys.executable, "-c", EXPORT_WITHOUT_ROOM, database_url, str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    told = json.loads(done.stdout)
    assert list(told) == FORMATS
    for format, (code, message) in told.items():
        assert code == "no_room"
        assert f"new-{format}" in message
        assert "File too large" in message
        assert "Free some space" in message
        assert ".part" not in message
    assert set(folder.iterdir()) == old
    assert {file.read_text() for file in old} == {"the last good export"}


def test_a_file_whose_manifest_cannot_be_written_is_not_there_either(
    database: Database, tmp_path: Path
) -> None:
    fill(database, 2)
    (tmp_path / "new.manifest.json").mkdir()
    with pytest.raises(InvalidInput, match=r"new.manifest.json is a folder"):
        export(database, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir() if "new" in path.name] == ["new.manifest.json"]


@pytest.mark.parametrize("blocked", ["out", "out.manifest.json"])
def test_a_manifest_never_stands_with_data_of_another_export(
    database: Database, tmp_path: Path, blocked: str
) -> None:
    fill(database, 2)
    (tmp_path / "out").write_text("old")
    (tmp_path / "out.manifest.json").write_text("of the old")

    def block(messages: object, prompt: bool) -> str:
        if (tmp_path / blocked).is_file():
            (tmp_path / blocked).unlink()
            (tmp_path / blocked).mkdir()  # the new names cannot be given from here on
        return ""

    plan = ExportPlan(shape="kto-text")
    with database.read() as session, pytest.raises(InvalidInput, match="cannot be written"):
        export_to(tmp_path / "out", Export(session, plan, salt=SALT, template=ChatTemplate(block)))
    if blocked == "out":
        assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]
    else:
        assert (tmp_path / "out").read_text() == "old"


def test_no_room_for_the_temporary_files_is_said_as_well(database: Database, tmp_path: Path) -> None:
    fill(database, 2)

    def full(messages: object, prompt: bool) -> str:
        raise sqlite3.OperationalError("database or disk is full")

    plan = ExportPlan(shape="kto-text")
    with database.read() as session, pytest.raises(NotReady, match="database or disk is full") as caught:
        export_to(tmp_path / "file", Export(session, plan, salt=SALT, template=ChatTemplate(full)))
    assert caught.value.code == "no_room"
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_the_manifest_says_what_the_file_is(database: Database, tmp_path: Path, format: str) -> None:
    fill(database, 12)
    target = tmp_path / "out"
    manifest = export(
        database,
        target,
        format=format,
        filter=ExampleFilter(label=True),
        duplicates="drop",
        licence="cc0-1.0",
    )
    beside = target / "manifest.json" if format == "datasets" else tmp_path / "out.manifest.json"
    data = target / "data" / "train.parquet" if format == "datasets" else target
    assert json.loads(beside.read_text()) == manifest
    assert manifest["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert manifest["bytes"] == data.stat().st_size
    with database.read() as session:
        assert manifest["snapshot_event_id"] == votes.latest_event_id(session)
    assert 0 < manifest["largest_event_id"] <= manifest["snapshot_event_id"]
    assert manifest["rows"] == manifest["votes"]["up"] == manifest["versions"]["v1"]["up"] > 0
    assert manifest["votes"]["down"] == 0
    assert manifest["filters"] == {"consent": "given", "label": True}
    assert manifest["duplicates"] == "drop"
    assert manifest["licence"] == "cc0-1.0"
    assert manifest["software"]["name"] == "thumbloop"


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_choices_give_the_same_files(database: Database, tmp_path: Path, format: str) -> None:
    fill(database)

    def files(name: str) -> dict[str, bytes]:
        folder = tmp_path / name
        folder.mkdir()
        export(database, folder / "out", format=format)
        return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}

    assert files("one") == files("other")


def test_exports_are_readable_by_their_owner_alone(database: Database, tmp_path: Path) -> None:
    fill(database, 2)
    export(database, tmp_path / "file")
    export(database, tmp_path / "folder", format="datasets")
    for path in (tmp_path / "file", tmp_path / "folder"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_a_file_is_replaced_and_a_filled_folder_is_not(database: Database, tmp_path: Path) -> None:
    fill(database, 2)
    (tmp_path / "file").write_text("old")
    export(database, tmp_path / "file")
    assert (tmp_path / "file").read_text().startswith("{")
    (tmp_path / "folder").mkdir()
    export(database, tmp_path / "folder", format="datasets")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Conflict, match="not empty"):
        export(database, tmp_path / "folder", format="datasets")
    with pytest.raises(InvalidInput, match="is a folder"):
        export(database, tmp_path / "folder")
    with pytest.raises(InvalidInput, match="cannot be written: No such file"):
        export(database, tmp_path / "nowhere" / "file")
    with pytest.raises(InvalidInput, match="cannot be written: "):
        export(database, tmp_path / "file" / "folder", format="datasets")
    assert sorted(tmp_path.rglob("*")) == before
