"""Idempotency keys of imports: a repeated request gets the stored report and imports nothing.

Keys are per person. The report is stored in the transaction that stores the rows, so neither exists alone. A
refused import leaves no trace, and its key may be used again.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.db.database import Database
from storage.db.rows import count_changed
from storage.db.tables import ImportRequest, now
from storage.errors import Conflict, InvalidInput

KEPT = timedelta(days=30)
RETRY_AFTER = 5  # seconds

# The keys in use, for SQLite, which serves only one process. PostgreSQL uses advisory locks.
_under_way: set[tuple[str, str]] = set()
_lock = threading.Lock()


@contextmanager
def one_at_a_time(database: Database, user_id: str, key: str) -> Iterator[None]:
    """Hold the key during its import; raises Conflict if another request holds it."""
    held = _held_by_the_database if database.dialect == "postgresql" else _held_by_this_process
    with held(database, f"{user_id}/{key}") as free:
        if not free:
            raise Conflict(
                f"The import with the idempotency key {key!r} is still running; try again later.",
                code="import_under_way",
                retry_after=RETRY_AFTER,
            )
        yield


def stored_report(session: Session, user_id: str, key: str, sha256: str) -> dict[str, Any] | None:
    """The report of the same request, or None; `sha256` is of its options and file.

    Raises InvalidInput if the key was used with another request.
    """
    query = select(ImportRequest).where(ImportRequest.user_id == user_id, ImportRequest.key == key)
    found = session.exec(query).first()
    if found is None:
        return None
    if found.sha256 != sha256:
        raise InvalidInput(
            f"The idempotency key {key!r} came with another file or other options on "
            f"{found.created_at:%Y-%m-%d}; take a new key for a new import.",
            code="idempotency_key_reused",
            field="Idempotency-Key",
        )
    return found.report


def store_report(session: Session, user_id: str, key: str, sha256: str, report: dict[str, Any]) -> None:
    session.add(ImportRequest(user_id=user_id, key=key, sha256=sha256, report=report))
    session.flush()


def remove_old_requests(session: Session) -> int:
    """Delete keys older than 30 days; returns how many."""
    old = sa.delete(ImportRequest).where(col(ImportRequest.created_at) < now() - KEPT)
    return count_changed(session, old)


@contextmanager
def _held_by_this_process(database: Database, name: str) -> Iterator[bool]:
    mine = (database.shown_address, name)
    with _lock:
        free = mine not in _under_way
        _under_way.add(mine)
    try:
        yield free
    finally:
        if free:
            _under_way.discard(mine)


@contextmanager
def _held_by_the_database(database: Database, name: str) -> Iterator[bool]:
    number = sa.func.hashtextextended(name, 0)
    # No transaction stays open meanwhile. If the server dies, its connection and the lock end.
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        free = bool(connection.execute(sa.select(sa.func.pg_try_advisory_lock(number))).scalar_one())
        try:
            yield free
        finally:
            if free:
                connection.execute(sa.select(sa.func.pg_advisory_unlock(number)))
