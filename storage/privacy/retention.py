"""Retention: erases chats that nobody has written in for long, a few in each transaction.

Each batch is a normal, audited erasure: text and votes are removed, and versions that learned from them are
marked. At the end the exports in the data directory are removed too. It is safe to run again, or on several
servers at once.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from storage.db.database import Database
from storage.privacy.erasure import ErasureReport, erase_before, remove_copies

BATCH = 200  # chats; votes wait no longer than one batch takes


def forget_before(
    database: Database,
    data_dir: Path,
    moment: datetime,
    *,
    by: str,
    stop: Callable[[], bool] = lambda: False,
) -> ErasureReport:
    """Erase the chats that nobody has written in since `moment`, until `stop`; returns what was removed."""
    total = ErasureReport()
    while not stop():
        with database.write() as session:
            report = erase_before(session, moment, by=by, limit=BATCH)
        if not report.chats:
            break
        total.add(report)
    if total.chats:
        remove_copies(database, data_dir)
    return total
