"""The database's own files: whose they are, and what a full disk is called."""

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from storage.db.database import Database, open_database
from storage.errors import BadSetting, NotReady, NotStored
from storage.people import users
from storage.settings import Settings


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.glob("thumbloop.db*")}


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_the_files_of_sqlite_are_their_owners_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        database = open_database(Settings(data_dir=tmp_path))
        with database.write() as session:
            users.create_user(session, "ada")
        whole = {"thumbloop.db": 0o600, "thumbloop.db-wal": 0o600, "thumbloop.db-shm": 0o600}
        assert modes(tmp_path) == whole
        for name in whole:
            (tmp_path / name).chmod(0o644)  # as a copy from elsewhere may be
        other = open_database(Settings(data_dir=tmp_path))
        assert modes(tmp_path) == whole
        other.close()
        database.close()
    finally:
        os.umask(before)


def test_opening_a_database_again_leaves_the_locks_of_its_connections(tmp_path: Path) -> None:
    """SQLite's locks belong to the process: closing any handle of the file would end them all."""
    settings = Settings(data_dir=tmp_path)
    attempt = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+b');"
        "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)"  # SQLite's bytes for readers
    )
    command = [sys.executable, "-c", attempt, str(tmp_path / "thumbloop.db")]
    with contextlib.closing(open_database(settings)) as first, first.read() as session:
        users.list_users(session)
        open_database(settings).close()
        assert b"BlockingIOError" in subprocess.run(command, stderr=subprocess.PIPE).stderr


def test_a_write_without_room_is_not_stored_and_says_what_to_do(tmp_path: Path) -> None:
    database = open_database(Settings(data_dir=tmp_path))
    with database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    # The size limit stands in for a full disk: SQLite cannot grow the file, as ENOSPC would have it.
    @sa.event.listens_for(database.engine, "begin")
    def limit(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    def fill() -> None:
        with database.write() as session:
            for number in range(10_000):
                users.create_user(session, f"user-{number}-" + "x" * 80)

    with pytest.raises(NotStored, match="full.*Free some space") as caught:
        fill()
    assert caught.value.code == "no_room"
    assert str(tmp_path / "thumbloop.db") in caught.value.message
    with database.read() as session:
        assert users.find_user(session, "user-0-" + "x" * 80) is None
    database.close()


def test_what_else_a_database_refuses_is_no_full_disk(database: Database) -> None:
    with pytest.raises(sa.exc.DBAPIError), database.write() as session:
        session.execute(sa.text("SELECT * FROM nothing_of_that_name"))


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg//thumbloop:S3cret@host/x",
        "postgresql+psycopg://thumbloop:S3cret@host:port/x",
        "thumbloop:S3c/ret@host",
        "not an address?password=S3cret",
    ],
)
def test_a_bad_address_is_refused_without_its_password(address: str) -> None:
    with pytest.raises(BadSetting, match="is not a database address") as refused:
        Database(address)
    assert "S3c" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_an_address_is_shown_without_its_password() -> None:
    database = Database("postgresql+psycopg://ada@host/x?password=S3cret&sslmode=require")
    assert database.shown_address == "postgresql+psycopg://ada@host/x?password=***&sslmode=require"


def test_a_damaged_file_and_a_newer_schema_are_one_sentence(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    database = open_database(settings)
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(NotReady, match="was made by a newer version of Thumbloop"):
        open_database(settings)
    for file in tmp_path.glob("thumbloop.db*"):
        file.unlink()
    (tmp_path / "thumbloop.db").write_bytes(b"no database" * 1000)
    with pytest.raises(NotReady, match="cannot be opened: .*not a database.* restore a backup"):
        open_database(settings)


def test_damage_that_is_met_after_the_start_is_one_sentence(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    database = open_database(settings)
    with database.write() as session:
        users.create_user(session, "ada")
    with database.engine.connect() as connection:
        size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
        root = "SELECT rootpage FROM sqlite_master WHERE name = 'user_account'"
        page = connection.exec_driver_sql(root).scalar_one()
    database.close()
    with (tmp_path / "thumbloop.db").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"x" * size)
    database = open_database(settings)
    with pytest.raises(NotReady, match="is damaged .*malformed.*restore"), database.read() as session:
        users.list_users(session)
    with pytest.raises(NotReady, match="is damaged"), database.write() as session:
        users.create_user(session, "bob")
    database.close()
