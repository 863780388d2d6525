"""What a full disk looks like, to this process and to the databases, and what is said of it.

A full quota, a file over the limit of this process and a broken disk look the same and need the same care.
"""

import errno
import sqlite3
from pathlib import Path

from storage.errors import NotReady

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
SQLITE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
POSTGRES = "53100"  # disk_full


def is_full(error: object) -> bool:
    """Whether this error of the system, or of a database's driver, says that there is no room."""
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    if isinstance(error, sqlite3.Error):
        # The low byte is the kind; a full disk under the WAL index is an I/O error to SQLite.
        return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in SQLITE
    return getattr(error, "sqlstate", None) == POSTGRES


def no_room(target: Path | str, why: object) -> NotReady:
    """The error of a file that could not be written, which names it and the remedy."""
    return NotReady(
        f"{target} could not be written ({why}); nothing new is under that name. "
        f"Free some space, for temporary files too, or write elsewhere.",
        code="no_room",
        field="file",
    )
