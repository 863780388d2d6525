"""Lets serving and training alternate on one device: unloads the models for a training, then reloads them.

A training claims the device by a file lock, which ends with its process; its run holds a lease as well.
"""

import gc
import logging
import math
import threading
import time
from collections.abc import Callable

from app.serving.deployments import Deployments
from storage.db.database import Database
from storage.errors import Busy
from storage.registry import training_runs
from storage.registry.device_lock import DeviceLock

log = logging.getLogger("thumbloop.serving")

POLL_SECONDS = 0.25
# Retry-After during a training: the default, used when the run gives no estimate, and the maximum.
USUAL_SECONDS, LONGEST_SECONDS = 15, 300


def freeze_loaded() -> None:
    """Exclude everything loaded so far from garbage collection; it lives as long as the server.

    A full collection would scan all of it, torch and Gradio included, and block replies for 0.7 s. Now it
    takes 0.05 s.
    """
    gc.collect()
    gc.freeze()


class DeviceSharing:
    """A thread that watches for trainings. `free` unloads every model and cuts off unfinished replies."""

    def __init__(
        self,
        database: Database,
        device: DeviceLock,
        deployments: Deployments,
        free: Callable[[], object],
        *,
        lease_seconds: float,
    ) -> None:
        self._database = database
        self._device = device
        self._deployments = deployments
        self._free = free
        self._lease_seconds = lease_seconds
        self._away = False
        self._alive_at = time.monotonic()  # when a training was last known to be alive
        self._failed = False  # the last look failed; logged once
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="device", daemon=True)

    def start(self) -> None:
        """Call it before the deployments start: the server may come up in the middle of a training."""
        if not self._device.use():
            self._make_way()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._device.close()

    def _watch(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            try:
                self._look()
                self._failed = False
            except Exception:
                if not self._failed:
                    log.exception("Serving and training cannot take turns; trying again.")
                self._failed = True

    def _look(self) -> None:
        claimed = self._device.claimed()
        alive = claimed and self._training_is_alive()
        if alive:
            self._alive_at = time.monotonic()
        if not self._away:
            if alive:
                self._make_way()
            else:
                self._device.use()  # also after a trainer that was silent for too long has gone
        elif not claimed:
            self._come_back("The training is over")
        elif time.monotonic() - self._alive_at > self._lease_seconds:
            self._come_back("The trainer has the device but has been silent for too long")

    def _make_way(self) -> None:
        log.info("A training wants the device: nobody is answered until it ends.")
        self._away = True
        try:
            self._deployments.make_way(self._why, self._free)
        finally:
            self._device.close()  # even if unloading failed: less memory beats a training that waits for ever

    def _come_back(self, why: str) -> None:
        self._device.use()
        log.info("%s: replies go on.", why)
        self._deployments.come_back()
        self._away = False
        freeze_loaded()

    def _training_is_alive(self) -> bool:
        with self._database.read() as session:
            return training_runs.leased_run(session) is not None

    def _why(self) -> Busy:
        with self._database.read() as session:
            run = training_runs.active_run(session)
        left = run.progress.get("seconds_left") if run is not None and run.progress else None
        seconds = min(max(math.ceil(left or USUAL_SECONDS), 5), LONGEST_SECONDS)
        return Busy(
            f"The model is being trained and has the machine to itself; ask again in about {seconds} s.",
            retry_after=seconds,
            code="training",
        )
