"""Feedback, backups and erasure on the command line, as people run it."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from storage.database import open_database
from storage.settings import Settings
from storage.users import ensure_user
from tests.integration.test_cli import CommandLine


@pytest.fixture
def thumbloop(tmp_path: Path, tiny_model: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", tiny_model)


def test_formats_options_and_filters(thumbloop: CommandLine, tmp_path: Path, pairs_sample: Path) -> None:
    assert "none_such" in thumbloop.refused("import", str(pairs_sample), "--format", "none_such")
    said = thumbloop.said("import", str(pairs_sample), "--format", "pairs", "--max-messages", "2")
    imported = int(said.splitlines()[-1].split()[0])
    assert imported > 0
    assert "dropped: more than 2 messages" in said

    table = tmp_path / "up.csv"
    said = thumbloop.said("export", str(table), "--format", "csv", "--filter", "label=up")
    manifest = json.loads((tmp_path / "up.csv.manifest.json").read_text())
    assert said.startswith(f"{manifest['rows']} rows")
    assert manifest["votes"]["down"] == 0
    assert manifest["votes"]["up"] > 0
    assert thumbloop.said("import", str(table)).startswith("0 imported")

    text = thumbloop.said("export", "-", "--shape", "kto-text", "--filter", "label=down")
    assert all(isinstance(json.loads(line)["prompt"], str) for line in text.splitlines())
    assert len(text.splitlines()) + manifest["rows"] == imported
    thumbloop.said("export", str(tmp_path / "set"), "--format", "datasets", "--shape", "pairs")
    assert (tmp_path / "set" / "data" / "train.parquet").exists()

    assert "colour" in thumbloop.refused("export", "-", "--filter", "colour=red")
    assert "NAME=VALUE" in thumbloop.refused("export", "-", "--filter", "label")
    assert "jsonl" in thumbloop.refused("export", "-", "--format", "parquet")


def test_scores(thumbloop: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "scores.jsonl"
    rows = [{"prompt": f"Question {n}", "response": f"Answer {n}", "stars": n} for n in range(1, 6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["import", str(file), "--score-column", "stars", "--down-to", "2"]
    assert "up_from" in thumbloop.refused(*words)
    assert "up_from" in thumbloop.refused(*words, "--up-from", "nan")
    said = thumbloop.said(*words, "--up-from", "4")
    assert said.splitlines() == [
        "1 dropped: stars is between 2 and 4",
        "4 imported, 0 there already, 0 left out.",
    ]


def test_backup_restore_and_erasure(thumbloop: CommandLine, tmp_path: Path, kto_sample: Path) -> None:
    archive = tmp_path / "backup.tar"
    assert "is not there" in thumbloop.refused("backup", str(archive), code=2)
    thumbloop.said("import", str(kto_sample), "--skip-bad")
    rows = thumbloop.said("export", "-")
    database = open_database(Settings(data_dir=thumbloop.data_dir))
    with database.write() as session:
        ensure_user(session, "ada", "user")
    database.close()
    assert "backup.tar" in thumbloop.said("backup", str(archive))
    assert archive.stat().st_mode & 0o077 == 0
    assert "exists" in thumbloop.refused("backup", str(archive))
    assert "restore into an empty" in thumbloop.refused("restore", str(archive))

    assert "--yes" in thumbloop.refused("erase-user", "ada")
    assert "no user 'bob'" in thumbloop.refused("erase-user", "bob", "--yes")
    assert "votes of ada are erased" in thumbloop.said("erase-user", "ada", "--yes")
    assert "ada" not in thumbloop.said("user", "list")

    tomorrow = f"{date.today() + timedelta(days=2)}"
    assert "yet to come" in thumbloop.refused("erase-before", tomorrow, "--yes")
    assert "not a date" in thumbloop.refused("erase-before", "yesterday", "--yes")
    assert thumbloop.said("erase-before", "2020-01-31").startswith("0 chats")
    soon = datetime.now(UTC).isoformat()
    assert "nothing was erased" in thumbloop.said("erase-before", soon, "--dry-run")
    assert "--yes" in thumbloop.refused("erase-before", soon)
    assert thumbloop.said("export", "-") == rows
    assert "are erased" in thumbloop.said("erase-before", soon, "--yes")
    assert thumbloop.said("export", "-") == ""

    thumbloop.settings["data_dir"] = tmp_path / "restored"
    thumbloop.said("restore", str(archive))
    assert thumbloop.said("export", "-") == rows
    assert "ada" in thumbloop.said("user", "list")
