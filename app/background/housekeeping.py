"""Daily housekeeping: erases deleted chats and chats past their retention, and old import keys, webhook
deliveries, sessions, sign-in links, failed sign-ins, visitors who did nothing, and the trash. Each minute it
counts the sums of votes that have changed.

It works by age, so it may run on several servers at once, or not run for a while.
"""

import logging
import threading
from datetime import UTC, timedelta

from apscheduler.schedulers.background import BackgroundScheduler

from storage.chats import sums, webhook_outbox
from storage.db import audit
from storage.db.database import Database
from storage.db.tables import now
from storage.errors import StoreUnavailable
from storage.imports import requests
from storage.people import tokens, users
from storage.privacy.erasure import forget_before
from storage.registry.artifacts import Artifacts
from storage.registry.stored_artifacts import open_artifacts
from storage.settings import Settings

log = logging.getLogger(__name__)

ACTOR = "retention"


class Housekeeping:
    """Runs at start and once a day. APScheduler logs a failure; the next day is another attempt."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._stop = threading.Event()
        self._scheduler = BackgroundScheduler(timezone=UTC)
        for run, every in ((self._run, timedelta(days=1)), (self._keep_sums, timedelta(minutes=1))):
            at = {"seconds": every.total_seconds(), "next_run_time": now()}
            self._scheduler.add_job(run, "interval", **at, coalesce=True, misfire_grace_time=None)

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """Stop after the current batch."""
        self._stop.set()
        if self._scheduler.running:
            self._scheduler.shutdown()

    def _run(self) -> None:
        with self._database.write() as session:
            requests.remove_old_requests(session)
            webhook_outbox.remove_old_deliveries(session)
            tokens.remove_ended(session)
            audit.remove_failed_sign_ins(session)
        self._forget(self._settings.deleted_chat_days, deleted=True)
        self._forget(self._settings.retention_days, deleted=False)
        self._tidy(open_artifacts(self._settings, self._database), self._settings.trash_days)
        removed = 1
        while removed and not self._stop.is_set():
            with self._database.write() as session:
                removed = users.remove_idle_visitors(session)

    def _keep_sums(self) -> None:
        more = True
        try:
            while more and not self._stop.is_set():
                with self._database.write() as session:
                    more = sums.keep(session)
        except Exception as error:  # the database may be away or full; statistics are exact without this
            log.warning("The sums of votes are kept a minute later: %s", error)

    def _tidy(self, artifacts: Artifacts, days: int) -> None:
        for name in artifacts.empty_trash(days):
            log.info("Removed %s, which was in the trash for %d days.", name, days)
        try:
            for name in artifacts.tidy_store(days):
                log.info("Removed %s from the artifact store: for %d days no version owned it.", name, days)
        except StoreUnavailable as error:
            log.warning("The artifact store is not tidied today. %s", error)
        if artifacts.cached:
            from trainer.sweep.stored import share_sweeps  # Optuna takes a while to load

            share_sweeps(artifacts)

    def _forget(self, days: int, *, deleted: bool) -> None:
        if not days:
            return
        report = forget_before(
            self._database,
            self._settings.data_dir,
            now() - timedelta(days=days),
            by=ACTOR,
            deleted=deleted,
            stop=self._stop.is_set,
        )
        if report.chats:
            which = "that were deleted" if deleted else "whose last message came"
            log.info("Erased %d chats %s more than %d days ago.", report.chats, which, days)
