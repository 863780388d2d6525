"""The database: one engine, short read and write transactions, migrations.

SQLite runs in WAL mode with `synchronous=FULL`, so a committed vote is on disk. Writers wait for a lock of
this process, then for SQLite's own. PostgreSQL uses a psycopg 3 pool.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlmodel import Session, create_engine

from storage.db.group_commit import GroupCommit
from storage.errors import BadSetting, NotReady, NotStored
from storage.files.data_dir import make_data_dir
from storage.files.disk_full import is_damaged, is_full
from storage.files.locks import AcquireReturnProxy, FileLock, Timeout, lock
from storage.settings import Settings

T = TypeVar("T")

# secure_delete overwrites deleted content with zeros.
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON", "secure_delete=ON")
# The key of an advisory lock, any constant: no two servers migrate one PostgreSQL database at once.
MIGRATION_LOCK = 7_463_551


class Database:
    """One database address; safe to share between threads, not between processes."""

    def __init__(self, address: str, *, longest_write_queue: int = 2048) -> None:
        try:
            url = sa.make_url(address)
        except (sa.exc.ArgumentError, ValueError):  # ValueError: the port is not a number
            raise BadSetting(
                f"THUMBLOOP_DATABASE_URL={without_password(address)!r} is not a database address; use "
                f"postgresql+psycopg://user:password@host/name or sqlite:///file.",
                field="database_url",
            ) from None  # the cause quotes the address
        self.dialect = url.get_backend_name()
        if self.dialect not in ("sqlite", "postgresql"):
            raise BadSetting(
                f"THUMBLOOP_DATABASE_URL names {self.dialect!r}; only sqlite and postgresql are supported.",
                field="database_url",
            )
        self.path = Path(url.database) if self.dialect == "sqlite" and url.database else None
        self.shown_address = without_password(url.render_as_string(hide_password=True))
        create = partial(create_engine, url, hide_parameters=True)  # an error in a log holds no message text
        self._lock: contextlib.AbstractContextManager[Any]
        if self.dialect == "sqlite":
            self.engine = create(connect_args={"check_same_thread": False}, pool_size=16, max_overflow=64)
            sa.event.listen(self.engine, "connect", _sqlite_pragmas)
            sa.event.listen(self.engine, "begin", _sqlite_begin)
            self._reader = self.engine
            self._lock = threading.Lock()  # SQLite has one writer
        else:
            self.engine = create(pool_size=8, max_overflow=24, pool_pre_ping=True)
            # An export can read for minutes and must not see writes made meanwhile.
            read_only = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            self._reader = self.engine.execution_options(**read_only)
            self._lock = contextlib.nullcontext()
        self._writer = self.engine.execution_options(writes=True)
        self._groups = GroupCommit(self._writer, self._lock, longest_queue=longest_write_queue)
        self._server_lock: AcquireReturnProxy[FileLock] | None = None

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read-only session that sees one consistent state.

        Raises NotStored if the disk is full, NotReady if SQLite's file is damaged.
        """
        with self._room(), Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session that commits at the end, or rolls back if anything raises.

        Raises NotStored if the database's disk is full, NotReady if SQLite's file is damaged.
        """
        with (
            self._room(),
            self._lock,
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def submit(self, write: Callable[[Session], T]) -> Future[T]:
        """Queue a small write that shares its commit with others; the future is done once it is on disk.

        Raises Busy if too many writes are waiting. See GroupCommit.submit.
        """
        return self._groups.submit(write)

    def small_write(self, write: Callable[[Session], T]) -> T:
        """Run a small write and wait for it: by group commit on SQLite, where writers queue anyway.

        On PostgreSQL it has its own transaction: a group would hold all its row locks until its end.
        """
        if self.dialect == "sqlite":
            return self.submit(write).result()
        with self.write() as session:
            return write(session)

    def forget_old_pages(self) -> None:
        """Remove erased content from SQLite's write-ahead log, by writing the log back and truncating it.

        Waits a few seconds at most for readers; the next call does what is left. Does nothing on PostgreSQL,
        whose files its administrator manages.
        """
        if self.dialect == "sqlite":
            with self._lock, self.engine.connect() as connection:
                connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def lock_for_server(self, path: Path) -> None:
        """Refuse another server until `close`; raises BadSetting if there is one already."""
        try:
            self._server_lock = lock(path.resolve().with_suffix(".server-lock"), wait=False)
        except Timeout as error:
            raise BadSetting(
                f"Another `thumbloop serve` uses {path}. Stop it first: SQLite allows one server, PostgreSQL "
                f"several (THUMBLOOP_DATABASE_URL).",
                field="database_url",
            ) from error

    def migrate(self, revision: str = "head") -> None:
        """Upgrade the schema to the newest version; safe when several processes start at once."""
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self._migration_lock(), self.engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)

    def close(self) -> None:
        """Finish the accepted writes and close every connection."""
        self._groups.close()
        self.engine.dispose()
        if self._server_lock is not None:
            self._server_lock.lock.release()
            self._server_lock = None

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            if is_full(error.orig):
                raise NotStored(
                    "The database {database} has no room ({error}); nothing of this was kept. "
                    "Free some space on its disk and do it again.",
                    code="no_room",
                    database=self.path or self.shown_address,
                    error=error.orig,
                ) from error
            if is_damaged(error.orig):
                raise NotReady(
                    f"The database {self.path} is damaged ({error.orig}). Stop what uses it and restore a "
                    f"backup."
                ) from error
            raise

    @contextmanager
    def _migration_lock(self) -> Iterator[None]:
        if self.path is not None:
            with lock(self.path.with_suffix(".migration-lock")):
                yield
        elif self.dialect == "postgresql":
            with self.engine.connect() as connection:  # the lock ends with the transaction
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
                yield
        else:
            yield


def open_database(settings: Settings, *, alone: bool = False) -> Database:
    """Create the data directory if needed, connect and migrate; raises BadSetting or NotReady.

    `alone` is for a server: on SQLite it locks the database until `close`, so that there is only one.
    """
    make_data_dir(settings.data_dir)
    database = Database(settings.database_address, longest_write_queue=settings.max_waiting_writes)
    where = database.path or database.shown_address
    try:
        if database.path is not None:
            _make_private(database.path)
            if alone:
                database.lock_for_server(database.path)
        database.migrate()
    except CommandError as error:  # of alembic: it does not know the schema's revision
        database.close()
        raise NotReady(
            f"The database {where} was made by a newer version of Thumbloop ({error}): install that version, "
            f"or set THUMBLOOP_DATABASE_URL."
        ) from error
    except (OSError, sa.exc.DatabaseError) as error:
        database.close()
        cause = error.orig if isinstance(error, sa.exc.DatabaseError) else error
        why = cause.strerror if isinstance(cause, OSError) else cause
        if is_full(cause):
            message = f"The database {where} has no room to be opened ({why}). Free some space on its disk."
            raise NotReady(message, code="no_room") from error
        raise NotReady(
            f"The database {where} cannot be opened: {why}. Start it, restore a backup if it is damaged, or "
            f"set THUMBLOOP_DATABASE_URL."
        ) from error
    return database


def without_password(address: str) -> str:
    """The address for people to read, even if it is malformed."""
    return re.sub(r"(?<=password=)[^&]*", "***", re.sub(r":(?!//).*@", ":***@", address))


def _make_private(path: Path) -> None:
    """Make the files private to the owner, whatever the umask; SQLite's later files get the same mode."""
    with contextlib.suppress(PermissionError):  # somebody else's file: SQLite's own error will say more
        # A file that exists is not opened: closing it would end the locks of this process's connections.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            if file.exists():
                file.chmod(0o600)


def _sqlite_pragmas(connection, _record) -> None:  # type: ignore[no-untyped-def]
    connection.isolation_level = None  # we say BEGIN ourselves, see _sqlite_begin
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(connection: sa.Connection) -> None:
    # IMMEDIATE takes the write lock at once: upgrading a read transaction later can fail as busy.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
