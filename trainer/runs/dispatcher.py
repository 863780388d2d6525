"""Starts a trainer for each requested run, replaces dead trainers, and ends cancelled runs.

Several dispatchers may share a database: each may start a trainer, but only one trainer can claim the run.
"""

import logging
import threading
import time
from dataclasses import dataclass

from sqlmodel import Session

from storage.db.database import Database
from storage.db.tables import TrainingRun
from storage.registry.training_runs import (
    active_run,
    claim_run,
    claimable_run,
    expire_lease,
    finish_run,
    get_run,
)
from storage.settings import Settings
from trainer.errors import ClusterAway, NotStarted
from trainer.runs.executors import ClusterExecutor, Executor

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
# A trainer learns of a cancellation with its heartbeat and stops at the end of its step. Loading a large
# model, or a long step, may exceed this.
CANCEL_GRACE_SECONDS = 30.0
STOP_SECONDS = 60.0
# A cluster's head node may start again within this time.
AWAY_SECONDS = 300.0


@dataclass
class _Trainer:
    """State of the trainer started here for a run."""

    owner: str
    claimed: bool = False
    dismissed: bool = False
    cancelled_at: float | None = None
    silent_since: float | None = None


class Dispatcher:
    """A thread that polls the queue once a second."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        executor: Executor,
        cancel_grace_seconds: float = CANCEL_GRACE_SECONDS,
        away_seconds: float = AWAY_SECONDS,
    ) -> None:
        self._cancel_grace = cancel_grace_seconds
        self._away_seconds = away_seconds
        self._database = database
        self._settings = settings
        self._executor = executor
        self._trainers: dict[str, _Trainer] = {}  # the latest one started here, by run id
        self._false_starts: dict[str, int] = {}
        self._away_since: float | None = None  # that the executor's cluster does not answer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dispatcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, terminate: bool) -> None:
        """Stop the thread; with `terminate`, also ask the trainers started here to release their runs.

        Those of a cluster go on in any case: the next server finds them.
        """
        self._stop.set()
        self._thread.join()
        if not terminate or isinstance(self._executor, ClusterExecutor):
            return
        for run_id in self._trainers:
            self._executor.terminate(run_id)
        deadline = time.monotonic() + STOP_SECONDS
        for run_id, trainer in self._trainers.items():
            while self._executor.alive(run_id) and time.monotonic() < deadline:
                time.sleep(0.05)
            if self._executor.alive(run_id):
                log.error("The trainer of run %s did not end in %.0f s; killing it.", run_id, STOP_SECONDS)
                self._executor.kill(run_id)
            self._expire(run_id, trainer)  # it may have died without releasing the run

    def _work(self) -> None:
        healthy = True
        while not self._stop.wait(POLL_SECONDS):
            try:
                self._look()
                healthy = True
            except Exception:
                # The database may be unreachable for a while; the queue is still there afterwards.
                if healthy:  # log an outage once, not every second
                    log.exception("Looking at the training queue failed; trying again.")
                healthy = False

    def _look(self) -> None:
        with self._database.read() as session:
            run = active_run(session)
            waits = claimable_run(session) is not None
        try:
            self._see_off(run)
            if run is not None:
                self._tend(run, waits=waits)
            self._away_since = None
        except NotStarted as error:
            if run is not None:
                self._fail(run, str(error))
        except ClusterAway as error:
            self._bear(run if waits else None, error)

    def _see_off(self, active: TrainingRun | None) -> None:
        """Follow the trainers of runs that are over to their end; one that has not begun is not needed."""
        for run_id, trainer in list(self._trainers.items()):
            if active is not None and run_id == active.id:
                continue
            try:
                alive = self._executor.alive(run_id)
            except NotStarted:
                alive = False
            if not alive:
                del self._trainers[run_id]
            elif not trainer.claimed:
                with self._database.read() as session:
                    trainer.claimed = get_run(session, run_id).owner == trainer.owner
                if not trainer.claimed and not trainer.dismissed:
                    self._executor.terminate(run_id)
                    trainer.dismissed = True

    def _tend(self, run: TrainingRun, *, waits: bool) -> None:
        trainer = self._trainers.get(run.id)
        other = run.state == "running" and trainer is not None and run.owner != trainer.owner
        if (trainer is None or other) and isinstance(self._executor, ClusterExecutor):
            owner = self._executor.find(run.id)
            if owner is not None and (trainer is None or owner != trainer.owner):
                self._trainers[run.id] = trainer = _Trainer(owner)
        if trainer is not None and run.owner == trainer.owner:
            self._mind(run, trainer, silent=waits)
        if waits and not self._executor.alive(run.id):
            self._begin(run, trainer)

    def _begin(self, run: TrainingRun, former: _Trainer | None) -> None:
        if run.cancel_requested or run.attempts >= self._settings.max_attempts:
            with self._database.write() as session:
                self._claim(session, run)  # which ends it; a trainer might wait in a queue to do so
            return
        if former is not None and not former.claimed:
            self._false_starts[run.id] = self._false_starts.get(run.id, 0) + 1
            if self._false_starts[run.id] >= self._settings.max_attempts:
                self._fail(
                    run,
                    f"The trainer ended {self._settings.max_attempts} times before it began; "
                    f"the run's log or the server's says why.",
                )
                return
        log.info("Starting a trainer for run %s.", run.id)
        self._trainers[run.id] = trainer = _Trainer(owner="")  # a false start, too, if the executor raises
        try:
            trainer.owner = self._executor.start(run.id)
        except ClusterAway:
            del self._trainers[run.id]
            raise

    def _mind(self, run: TrainingRun, trainer: _Trainer, *, silent: bool) -> None:
        """Watch a trainer of ours: is it alive, does it send heartbeats, does it obey a cancellation?"""
        trainer.claimed = True
        now = time.monotonic()
        if not self._executor.alive(run.id):
            if not silent:
                log.error("The trainer of run %s died; another one resumes the run.", run.id)
                self._expire(run.id, trainer)
            return
        if run.cancel_requested:
            trainer.cancelled_at = trainer.cancelled_at or now
            if now - trainer.cancelled_at > self._cancel_grace:
                log.warning("The trainer of run %s goes on after its cancellation; killing it.", run.id)
                self._executor.kill(run.id)
        # After the machine slept, the lease may have expired although the trainer is about to send a
        # heartbeat.
        trainer.silent_since = (trainer.silent_since or now) if silent else None
        if trainer.silent_since is not None and now - trainer.silent_since > self._settings.lease_seconds:
            log.error("The trainer of run %s is alive but silent; killing it.", run.id)
            self._executor.kill(run.id)

    def _expire(self, run_id: str, trainer: _Trainer) -> None:
        with self._database.write() as session:
            expire_lease(session, run_id, trainer.owner)

    def _bear(self, waiting: TrainingRun | None, error: ClusterAway) -> None:
        """Wait for a cluster that does not answer; in the end, a run that waits for it fails."""
        now = time.monotonic()
        if self._away_since is None:
            log.warning("%s", error)
            self._away_since = now
        if waiting is not None and now - self._away_since > self._away_seconds:
            self._fail(waiting, str(error))

    def _fail(self, run: TrainingRun, reason: str) -> None:
        """End a run that no trainer can begin."""
        with self._database.write() as session:
            claimed = self._claim(session, run)
            if claimed is not None:
                claimed.log_path = f"runs/{run.id}/train.log"
                finish_run(session, run.id, claimed.fence, state="failed", reason=reason)
        log.error("Run %s failed: %s", run.id, reason)

    def _claim(self, session: Session, run: TrainingRun) -> TrainingRun | None:
        return claim_run(
            *(session, run.id),
            owner="dispatcher",
            lease_seconds=self._settings.lease_seconds,
            max_attempts=self._settings.max_attempts,
        )
