"""Forgetting by age: chats in which nobody has written for long are erased, a few in each transaction.

Each batch is an erasure like any other: text and votes go, versions that learned from them are marked, it
is audited, and the exports in the data directory, which are copies, go with it. Running it again, or on
several servers at once, removes nothing twice.
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
    """Erase the chats that nobody has written in since `moment`, until `stop`; returns what that was."""
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
