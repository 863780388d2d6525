"""Daily housekeeping: erases chats past their retention, old import keys and old webhook deliveries.

It works by age, so it may run on several servers at once, or not run for a while.
"""

import logging
import threading
from datetime import timedelta

from storage.chats import webhook_outbox
from storage.db.database import Database
from storage.db.tables import now
from storage.imports import requests
from storage.privacy.retention import forget_before
from storage.settings import Settings

log = logging.getLogger(__name__)

EVERY_SECONDS = 86_400.0
ACTOR = "retention"


class Housekeeping:
    """A thread that runs at start and once a day."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="housekeeping", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current batch."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while True:
            try:
                self._tidy()
            except Exception:
                log.exception("The daily housekeeping failed; it is tried again tomorrow.")
            if self._stop.wait(EVERY_SECONDS):
                return

    def _tidy(self) -> None:
        with self._database.write() as session:
            requests.remove_old_requests(session)
            webhook_outbox.remove_old_deliveries(session)
        days = self._settings.retention_days
        if days:
            moment = now() - timedelta(days=days)
            report = forget_before(
                self._database, self._settings.data_dir, moment, by=ACTOR, stop=self._stop.is_set
            )
            if report.chats:
                log.info("Erased %d chats that were older than %d days.", report.chats, days)
