"""A trainer's lease on its run: sends heartbeats with progress from a thread, and says when to stop.

A trainer stops if the run is cancelled, if the process receives a signal to end, if another trainer took
the run over, or if it could not reach the database for the length of its lease, since another trainer may
then have the run. It notices only at the next call of `check`; the dispatcher kills a trainer that takes too
long.
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any, Self, get_args

from storage.db.database import Database
from storage.db.tables import TrainingRun
from storage.errors import LeaseLost
from storage.registry.training_runs import heartbeat
from trainer.errors import Interrupted, Why

log = logging.getLogger(__name__)

# Heartbeats also deliver cancellations, so they are more frequent than the lease requires.
LONGEST_INTERVAL_SECONDS = 2.0
# Slurm sends the last one some time before a job's time limit.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class Lease:
    """A context manager that sends heartbeats until it closes."""

    def __init__(self, database: Database, run: TrainingRun, *, lease_seconds: float) -> None:
        self.run_id, self.fence = run.id, run.fence
        self._database = database
        self._seconds = lease_seconds
        self._interval = min(LONGEST_INTERVAL_SECONDS, lease_seconds / 3)
        self._progress: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}  # stays in the progress, whatever replaces the rest
        self._reasons: set[Why] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._handlers = {number: signal.signal(number, self._terminate) for number in SIGNALS}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def report(self, progress: Mapping[str, Any]) -> None:
        """Replace the progress shown to people, with the next heartbeat. Raises Interrupted, like `check`."""
        self.note(progress)
        self.check()

    def note(self, progress: Mapping[str, Any]) -> None:
        """Replace the progress shown to people, without stopping."""
        # PostgreSQL's JSON has no NaN.
        self._progress = self.kept | {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in progress.items()
        }

    def check(self) -> None:
        """Raise Interrupted if the work must stop."""
        for why in get_args(Why):
            if why in self._reasons:
                raise Interrupted(why)

    def _terminate(self, *_: object) -> None:
        self._reasons.add("terminated")

    def _beat(self) -> None:
        heard = time.monotonic()
        while not self._closed.wait(self._interval):
            try:
                with self._database.write() as session:
                    if heartbeat(
                        *(session, self.run_id, self.fence),
                        lease_seconds=self._seconds,
                        progress=self._progress,
                    ):
                        self._reasons.add("cancelled")
                heard = time.monotonic()
            except LeaseLost as error:
                log.error("%s Stopping.", error.message)
                self._reasons.add("lost")
                break
            except Exception as error:  # an unreachable database, whatever the driver raises
                silent = time.monotonic() - heard
                log.warning("No heartbeat for %.0f s: %s", silent, error)
                if silent > self._seconds:
                    log.error("The lease has run out unheard; another trainer may have the run. Stopping.")
                    self._reasons.add("lost")
                    break
