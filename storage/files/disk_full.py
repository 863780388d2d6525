"""Recognises the errors of a full disk, from the system and from database drivers, and words the message.

Also recognises SQLite's errors for a lock of another process and for a damaged file, which are no full disk.

A full quota, a file over the process's size limit and an I/O error are treated as a full disk.
"""

import errno
import sqlite3
from pathlib import Path

from storage.errors import NotReady

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
SQLITE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
POSTGRES = "53100"  # disk_full


def is_full(error: object) -> bool:
    """Whether this error, from the system or a database driver, means that the disk is full."""
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    if isinstance(error, sqlite3.Error):
        # SQLite reports a full disk under the WAL index as an I/O error.
        return _primary_code(error) in SQLITE
    return getattr(error, "sqlstate", None) == POSTGRES


def is_locked(error: object) -> bool:
    """Whether another process held SQLite's lock for too long."""
    return isinstance(error, sqlite3.Error) and _primary_code(error) in LOCKED


def is_damaged(error: object) -> bool:
    """Whether SQLite found its file damaged."""
    return isinstance(error, sqlite3.Error) and _primary_code(error) in DAMAGED


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def no_room(target: Path | str, why: object) -> NotReady:
    """The error for a file that could not be written; it names the file and the remedy."""
    return NotReady(
        f"{target} could not be written ({why}); nothing new is under that name. "
        f"Free some space, for temporary files too, or write elsewhere.",
        code="no_room",
        field="file",
    )
