"""Feedback, backups and erasure on the command line, as people run it."""

import contextlib
import hashlib
import json
import os
import pty
import re
import subprocess
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import s3fs
from sqlmodel import select

from storage.db.tables import Chat
from storage.people.users import ensure_user
from storage.privacy.consent import delete_chat
from tests.support.command_line import PROGRAM, CommandLine
from tests.support.fake_hub import HUB_SETTINGS, FakeHub
from tests.support.rated_files import rated, write_rows
from tests.support.rows import audit_events
from tests.support.s3_server import S3Server


def test_formats_options_and_filters(thumbloop: CommandLine, tmp_path: Path, pairs_sample: Path) -> None:
    assert "none_such" in thumbloop.refused("import", str(pairs_sample), "--format", "none_such")
    printed = thumbloop.output("import", str(pairs_sample), "--format", "pairs", "--max-messages", "2")
    imported = int(printed.splitlines()[-1].split()[0])
    assert imported > 0
    assert "dropped: more than 2 messages" in printed

    table = tmp_path / "up.csv"
    printed = thumbloop.output("export", str(table), "--format", "csv", "--filter", "label=up")
    manifest = json.loads((tmp_path / "up.csv.manifest.json").read_text())
    assert printed.startswith(f"{manifest['rows']} rows")
    assert manifest["votes"]["down"] == 0
    assert manifest["votes"]["up"] > 0
    assert thumbloop.output("import", str(table)).startswith("0 imported")

    text = thumbloop.output("export", "-", "--shape", "kto-text", "--filter", "label=down")
    assert all(isinstance(json.loads(line)["prompt"], str) for line in text.splitlines())
    assert len(text.splitlines()) + manifest["rows"] == imported
    thumbloop.output("export", str(tmp_path / "set"), "--format", "datasets", "--shape", "pairs")
    assert (tmp_path / "set" / "data" / "train.parquet").exists()

    assert "colour" in thumbloop.refused("export", "-", "--filter", "colour=red")
    assert "NAME=VALUE" in thumbloop.refused("export", "-", "--filter", "label")
    assert "jsonl" in thumbloop.refused("export", "-", "--format", "parquet")


def test_a_dry_run_shows_conversations_and_stores_nothing(thumbloop: CommandLine) -> None:
    row = json.dumps({"q": "Who?", "a": "I", "ok": "good", "note": "x"})
    command = ("import", "-", "--columns", "prompt=q,reply=a,label=ok")
    printed = thumbloop.output(*command, "--dry-run", stdin=f"{row}\nbroken")
    assert printed.splitlines() == [
        "line 1, thumb up",
        "  [user] Who?",
        "  [assistant] I",
        "line 2 left out: This is not JSON: Expecting value at column 1.",
        "column note left out, in 1 records",
        "Nothing was stored. As kto: 1 thumbs up, 0 down, 1 bad.",
    ]
    assert thumbloop.output(*command, stdin=row).splitlines()[-1].startswith("1 imported")
    assert "openai-preference" in thumbloop.output("formats")


def test_columns_are_saved_under_a_name(thumbloop: CommandLine) -> None:
    row = json.dumps({"q": "Who?", "a": "I", "ok": "good"})
    unknown = thumbloop.refused("import", "-", "--columns", "surveys", stdin=row)
    assert "There is no map of columns 'surveys'. None is saved." in unknown
    for columns in ("prompt=q", "prompt=q,reply=a,label=ok"):
        thumbloop.output("columns", "save", "surveys", columns)
    assert "prompt=q,reply=a,label=ok" in thumbloop.output("columns", "list")
    assert "1 thumbs up" in thumbloop.output("import", "-", "--columns", "surveys", "--dry-run", stdin=row)
    assert thumbloop.output("import", "-", "--columns", "surveys", stdin=row).startswith("1 imported")
    assert "MEANING=COLUMN" in thumbloop.refused("columns", "save", "surveys", "words")
    assert "is no name" in thumbloop.refused("columns", "save", "a=b", "prompt=q")
    thumbloop.output("columns", "remove", "surveys")
    assert "None is saved" in thumbloop.refused("columns", "remove", "surveys")
    assert "save columns" in thumbloop.output("audit")


def test_who_took_data_in_and_out_is_noted(thumbloop: CommandLine, tmp_path: Path) -> None:
    row = json.dumps({"prompt": "Who?", "completion": "I", "label": True})
    thumbloop.output("import", "-", stdin=row)
    thumbloop.output("import", "-", "--skip-bad", stdin=f"{row}\nbroken")
    thumbloop.refused("import", "-", stdin="broken")
    thumbloop.output("export", "-")
    thumbloop.output("export", str(tmp_path / "out.csv"), "--format", "csv")
    thumbloop.refused("export", "-", "--snapshot", "9")
    with thumbloop.database() as database, database.read() as session:
        events = audit_events(session)
    assert {event.actor for event in events} == {"command line"}
    assert [(event.action, event.target, event.detail) for event in reversed(events)] == [
        ("import", "standard input", {"accepted": 1, "rejected": 0}),
        ("import", "standard input", {"accepted": 0, "rejected": 1}),
        ("export", "snapshot 1", {"format": "jsonl", "file": "-"}),
        ("export", "snapshot 1", {"format": "csv", "file": str(tmp_path / "out.csv")}),
    ]


def test_a_database_that_is_held_is_said_in_one_line(thumbloop: CommandLine) -> None:
    thumbloop.output("user", "list")
    with thumbloop.database() as other, other.write() as session:
        ensure_user(session, "ada", "user")
        assert "database is locked" in thumbloop.refused("export", "-", code=2)


def test_older_snapshots_and_exports_without_personal_data(thumbloop: CommandLine, tmp_path: Path) -> None:
    file, out = tmp_path / "rated.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": "Who?", "completion": f"{name}@mail.internal", "label": True} for name in "abc"]
    write_rows(file, rows[:2])
    thumbloop.output("import", str(file))
    before = thumbloop.output("export", "-")
    write_rows(file, rows[2:])
    thumbloop.output("import", str(file))
    assert thumbloop.output("export", "-", "--snapshot", "2") == before
    assert "3" in thumbloop.refused("export", "-", "--snapshot", "4")
    printed = thumbloop.output("export", str(out), "--redact", "--snapshot", "1")
    assert printed == f"1 rows written to {out}.\n"
    assert "<EMAIL_ADDRESS_1>" in out.read_text()
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert (manifest["snapshot_event_id"], manifest["redaction"]["replaced"]) == (1, {"EMAIL_ADDRESS": 1})

    with thumbloop.database() as database, database.write() as session:
        delete_chat(session, str(session.exec(select(Chat.id)).first()))
    printed = thumbloop.output("export", str(out), "--snapshot", "2")
    assert printed.splitlines() == ["1 left out: deleted chat", f"1 rows written to {out}."]
    thumbloop.settings["redaction_model"] = "no_such_model"
    assert "spacy download no_such_model" in thumbloop.refused("export", "-", "--redact", code=2)


def test_an_import_shows_how_far_it_is_on_a_terminal(thumbloop: CommandLine, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rated.jsonl", map(rated, range(3000)))
    outer, inner = pty.openpty()
    child = subprocess.Popen(
        [*PROGRAM, "import", str(file)],
        env=thumbloop.environment | {"TERM": "xterm", "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=inner,
        stderr=inner,
    )
    os.close(inner)
    seen = b""
    with contextlib.suppress(OSError), os.fdopen(outer, "rb", buffering=0) as terminal:  # EIO at the end
        while data := terminal.read(65_536):
            seen += data
    assert child.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "storing" in text
    assert re.search(r"━+.*\d+(\.\d+)?/\d+(\.\d+)? [kMB]+", text)
    assert "3000 imported" in text


def test_backup_restore_and_erasure(thumbloop: CommandLine, tmp_path: Path, kto_sample: Path) -> None:
    archive = tmp_path / "backup.tar"
    assert "is not there" in thumbloop.refused("backup", str(archive), code=2)
    thumbloop.output("import", str(kto_sample), "--skip-bad")
    rows = thumbloop.output("export", "-")
    with thumbloop.database() as database, database.write() as session:
        ensure_user(session, "ada", "user")
    assert "backup.tar" in thumbloop.output("backup", str(archive))
    assert archive.stat().st_mode & 0o077 == 0
    assert "exists" in thumbloop.refused("backup", str(archive))
    assert "restore into an empty" in thumbloop.refused("restore", str(archive))

    assert "--yes" in thumbloop.refused("erase-user", "ada")
    assert "no user 'bob'" in thumbloop.refused("erase-user", "bob", "--yes")
    assert "votes of ada." in thumbloop.output("erase-user", "ada", "--yes")
    assert "ada" not in thumbloop.output("user", "list")

    tomorrow = f"{date.today() + timedelta(days=2)}"
    assert "in the future" in thumbloop.refused("erase-before", tomorrow, "--yes")
    assert "not a date" in thumbloop.refused("erase-before", "yesterday", "--yes")
    assert thumbloop.output("erase-before", "2020-01-31").startswith("0 chats")
    soon = datetime.now(UTC).isoformat()
    assert "nothing was erased" in thumbloop.output("erase-before", soon, "--dry-run")
    assert "--yes" in thumbloop.refused("erase-before", soon)
    assert thumbloop.output("export", "-") == rows
    assert "Erased" in thumbloop.output("erase-before", soon, "--yes")
    assert thumbloop.output("export", "-") == ""

    thumbloop.settings["data_dir"] = tmp_path / "restored"
    restored = thumbloop.run("restore", str(archive))
    assert "Deployed: v1" in restored.stdout + restored.stderr
    assert thumbloop.output("export", "-") == rows
    assert "ada" in thumbloop.output("user", "list")


def test_an_export_goes_into_a_bucket_with_its_manifest(
    thumbloop: CommandLine, tmp_path: Path, s3: S3Server
) -> None:
    thumbloop.settings["artifacts_options"] = json.dumps(s3.options)
    thumbloop.output("import", "-", stdin='{"prompt": "Hi", "completion": "Hello", "label": true}\n')
    bucket = s3fs.S3FileSystem(**s3.options, skip_instance_cache=True, use_listings_cache=False)
    file, manifest = "bucket/exports/all.jsonl", "bucket/exports/all.jsonl.manifest.json"
    for rows in ("1 rows", "2 rows"):
        assert thumbloop.output("export", f"s3://{file}") == f"{rows} written to s3://{file}.\n"
        content = bucket.cat_file(file)
        assert content.decode() == thumbloop.output("export", "-")
        assert json.loads(bucket.cat_file(manifest))["sha256"] == hashlib.sha256(content).hexdigest()
        thumbloop.output("import", "-", stdin='{"prompt": "Why?", "completion": "So.", "label": false}\n')
    folder = ("export", "s3://bucket/exports/set", "--format", "datasets")
    thumbloop.output(*folder)
    names = {name.removeprefix("bucket/exports/set/") for name in bucket.find("bucket/exports/set")}
    assert names == {"README.md", "manifest.json", "data/train.parquet"}
    assert "is not empty" in thumbloop.refused(*folder)
    assert "s3://BUCKET/NAME" in thumbloop.refused("export", "s3://bucket")
    assert "of this machine" in thumbloop.refused(*folder, "--push-to-hub", "me/feedback")
    left = [path.name for path in thumbloop.data_dir.iterdir() if path.name.startswith("export-")]
    assert left == [], "nothing stays on this machine"

    nowhere = s3.options | {"endpoint_url": "http://127.0.0.1:9"}
    thumbloop.settings["artifacts_options"] = json.dumps(nowhere)
    assert "is unavailable" in thumbloop.refused("export", f"s3://{file}")


def test_an_export_is_pushed_to_the_hub(
    thumbloop: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thumbloop.output("import", "-", stdin='{"prompt": "Hi", "completion": "Hello", "label": true}\n')
    refused = thumbloop.refused("export", str(tmp_path / "x"), "--push-to-hub", "me/feedback")
    assert "add --format datasets" in refused
    assert not (tmp_path / "x").exists()
    hub = FakeHub(token="hf_secret")
    for name, value in (HUB_SETTINGS | {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_secret"}).items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "out"
    # huggingface_hub reads its environment when it is imported, so a forked process would not do.
    words = ["export", str(folder), "--format", "datasets", "--push-to-hub", "me/feedback"]
    done = subprocess.run([*PROGRAM, *words], env=thumbloop.environment, capture_output=True, text=True)
    hub.close()
    assert f"Pushed: {hub.endpoint}/datasets/me/feedback/commit/" in done.stdout, done.stderr
    assert hub.files["data/train.parquet"] == (folder / "data" / "train.parquet").read_bytes()
