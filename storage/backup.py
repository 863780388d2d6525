"""Backup and restore of one installation: the database, the adapters and the secret, in one tar file.

A backup is consistent while the server runs: the database is copied first (SQLite's backup API, pg_dump), so
every adapter it names is already on disk. Every file is hashed. The manifest is written last, so an archive
with a manifest is complete. Base models are not included: they can be downloaded again.
"""

import hashlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from storage.db.database import Database
from storage.errors import Conflict, InvalidInput, NotReady
from storage.files.atomic import written_aside
from storage.files.data_dir import make_data_dir
from storage.files.installation_key import FILE_NAME as SECRET
from storage.registry.artifacts import hash_file
from storage.settings import Settings

MANIFEST = "manifest.json"
SQLITE_COPY, POSTGRES_DUMP = "database.sqlite", "database.pgdump"
FORMAT = 1
OF_A_NEW_DISK = {"lost+found"}


@dataclass(frozen=True)
class BackupReport:
    """What an archive holds: the number of files and their size in bytes, without the manifest."""

    files: int
    bytes: int


def back_up(settings: Settings, target: Path) -> BackupReport:
    """Write the archive to a temporary file, verify and sync it, then rename it to `target`.

    Raises Conflict if `target` exists, NotReady if the database cannot be copied or the disk is full.
    """
    if target.exists():
        raise Conflict(f"{target} exists already; choose another name, nothing is overwritten.")
    _check_there(settings.data_dir)
    try:
        with (
            tempfile.TemporaryDirectory(dir=settings.data_dir) as folder,
            written_aside(target, private=True) as aside,  # it holds the secret and people's messages
        ):
            dump = _dump(settings, Path(folder))
            files = {dump.name: dump} | dict(_data_files(settings.data_dir))
            hashes = {name: hash_file(path) for name, path in files.items()}
            with tarfile.open(aside, mode="w") as archive:
                for name, path in files.items():
                    archive.add(path, arcname=name, recursive=False)
                manifest = json.dumps({"format": FORMAT, "files": hashes}, indent=1).encode()
                member = tarfile.TarInfo(MANIFEST)
                member.size = len(manifest)
                archive.addfile(member, io.BytesIO(manifest))
            return verify(aside)
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise NotReady(
            f"The backup {target} could not be written ({why}). Free some space there and in "
            f"{settings.data_dir}, where the database is copied first."
        ) from error


def verify(archive: Path) -> BackupReport:
    """Read the archive and compare every hash; raises InvalidInput, which names the damaged file."""
    hashes, found, size = _manifest(archive), set[str](), 0
    with _opened(archive) as members:
        for member in members:
            if member.name == MANIFEST:
                continue
            expected = hashes.get(member.name)
            stream = members.extractfile(member) if member.isfile() else None
            outside = member.name.startswith("/") or ".." in Path(member.name).parts
            if expected is None or stream is None or outside:
                raise InvalidInput(f"{archive}: {member.name} does not belong in a backup.")
            if hashlib.file_digest(stream, "sha256").hexdigest() != expected:  # type: ignore[arg-type]
                raise InvalidInput(f"{archive}: {member.name} is damaged; use another backup.")
            found.add(member.name)
            size += member.size
    if found != hashes.keys():
        raise InvalidInput(f"{archive} lacks {sorted(hashes.keys() - found)[0]}; use another backup.")
    return BackupReport(len(found), size)


def restore(settings: Settings, archive: Path) -> BackupReport:
    """Verify the archive, then restore it into an empty database and data directory.

    Raises Conflict if either is not empty, InvalidInput if the archive is damaged or from the other database
    engine.
    """
    report = verify(archive)
    database = Database(settings.database_address)
    copy = SQLITE_COPY if database.dialect == "sqlite" else POSTGRES_DUMP
    try:
        if copy not in _manifest(archive):
            raise InvalidInput(
                f"{archive} was made from another database engine than {database.dialect}; "
                f"set THUMBLOOP_DATABASE_URL to an address of that engine."
            )
        _refuse_used_target(settings, database)
        make_data_dir(settings.data_dir)
        with tempfile.TemporaryDirectory(dir=settings.data_dir) as folder, _opened(archive) as members:
            for member in members:
                if member.name != MANIFEST:
                    members.extract(member, folder, filter="data")
            _load(database, Path(folder) / copy)
            for item in Path(folder).iterdir():
                if item.name != copy:
                    item.rename(settings.data_dir / item.name)
    finally:
        database.close()
    return report


def _check_there(path: Path) -> None:
    if not path.exists():
        raise NotReady(f"{path} is not there; set THUMBLOOP_DATA_DIR to what is to be kept.")


def _dump(settings: Settings, folder: Path) -> Path:
    database = Database(settings.database_address)
    try:
        if database.path is None:
            dump = folder / POSTGRES_DUMP
            _postgres(database, "pg_dump", "--format=custom", f"--file={dump}")
        else:
            _check_there(database.path)
            dump = folder / SQLITE_COPY
            with closing(sqlite3.connect(database.path)) as source, closing(sqlite3.connect(dump)) as copy:
                source.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")
        return dump
    finally:
        database.close()


def _load(database: Database, copy: Path) -> None:
    if database.path is None:
        _postgres(database, "pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", str(copy))
    else:
        with written_aside(database.path, private=True) as aside:
            shutil.copyfile(copy, aside)


def _postgres(database: Database, program: str, *arguments: str) -> None:
    if shutil.which(program) is None:
        raise NotReady(f"{program} is not on this machine; install PostgreSQL's client programs.")
    url = database.engine.url
    password = url.password or url.query.get("password")
    # Other users can read a command line, but not the environment.
    address = sa.URL.create(
        "postgresql", url.username, None, url.host, url.port, url.database, url.query
    ).difference_update_query(["password"])
    command = [program, f"--dbname={address.render_as_string()}", *arguments]
    environment = os.environ | ({"PGPASSWORD": str(password)} if password else {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise NotReady(f"{program} failed: {done.stderr.strip()}")


def _refuse_used_target(settings: Settings, database: Database) -> None:
    used = [path for path in settings.data_dir.glob("*") if path.name not in OF_A_NEW_DISK]
    if database.path is not None:
        # SQLite would replay a leftover log of another database into the restored one.
        logs = [database.path.with_name(database.path.name + end) for end in ("", "-wal", "-shm", "-journal")]
        used += [path for path in logs if path.exists()]
    elif sa.inspect(database.engine).get_table_names():
        raise Conflict(f"The database {database.shown_address} has tables; restore into an empty one.")
    if used:
        raise Conflict(f"{used[0]} exists; restore into an empty THUMBLOOP_DATA_DIR, or empty this one.")


def _data_files(data_dir: Path) -> Iterator[tuple[str, Path]]:
    secret = data_dir / SECRET
    if secret.exists():
        yield SECRET, secret
    for folder in sorted((data_dir / "adapters").glob("*")):
        if folder.is_dir() and folder.suffix not in (".tmp", ".part"):
            for file in sorted(folder.iterdir()):
                yield str(file.relative_to(data_dir)), file


def _manifest(archive: Path) -> dict[str, str]:
    manifest = None
    with _opened(archive) as members:
        stream = members.extractfile(MANIFEST) if MANIFEST in members.getnames() else None
        if stream is None:
            raise InvalidInput(f"{archive} has no manifest: it is not a backup, or one that was cut short.")
        with suppress(ValueError, RecursionError):
            manifest = json.load(stream)
    if not isinstance(manifest, dict):
        raise InvalidInput(f"{archive}: its manifest is damaged; use another backup.")
    if manifest.get("format") != FORMAT:
        raise InvalidInput(
            f"{archive} has the format {manifest.get('format')!r}; this version reads {FORMAT}."
        )
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise InvalidInput(f"{archive}: its manifest names no files; use another backup.")
    return files


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(archive, mode="r:") as members:
            yield members
    except (OSError, tarfile.TarError) as error:
        raise InvalidInput(f"{archive} cannot be read as a backup ({error}).") from error
