"""An import whose process is killed: nothing half done, and the same file again adds the rest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlmodel import col, func, select

from storage.db.database import Database
from storage.db.tables import Chat, Message, Vote, VoteEvent
from storage.imports.importer import BATCH, import_file
from tests.support.imported import counts, exported, is_empty, numbered

ROWS = BATCH * 6
# Says where it is, and waits there until it is killed.
IMPORT = """
import sys
from pathlib import Path
from storage.db.database import Database
from storage.imports.importer import import_file

address, path, skip_bad = sys.argv[1:]

def wait(progress):
    if progress.stage == "storing" and progress.records == 2000:
        print("storing", flush=True)
        sys.stdin.read()

import_file(Database(address), Path(path), skip_bad=skip_bad == "True", progress=wait)
"""


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_killed_import_is_taken_up_by_the_same_file_again(
    database: Database, database_url: str, tmp_path: Path, skip_bad: bool
) -> None:
    rows = numbered(ROWS)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-c", IMPORT, database_url, str(path), str(skip_bad)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "storing\n"
        child.kill()
    kept = len(exported(database))
    assert kept == (BATCH * 3 if skip_bad else 0)  # the third batch was stored, the fourth was not full
    assert skip_bad or is_empty(database)

    assert counts(import_file(database, path, skip_bad=skip_bad)) == (ROWS - kept, kept, 0, 0)
    assert counts(import_file(database, path, skip_bad=skip_bad)) == (0, ROWS, 0, 0)
    assert [row["prompt"][0]["content"] for row in exported(database)] == [row["prompt"] for row in rows]
    with database.read() as session:
        of_each = [session.exec(select(func.count(col(table.id)))).one() for table in (Chat, Vote, VoteEvent)]
        messages = session.exec(select(func.count(col(Message.id)))).one()
    assert of_each == [ROWS] * 3
    assert messages == 2 * ROWS
