"""Lets serving and training alternate on one device: unloads the models for a training, then reloads them.

A training claims the device by a file lock, which ends with its process; its run holds a lease as well.
"""

import gc
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass
class DeviceSharing:
    """A thread that watches for trainings. `unload` unloads every model and cuts off unfinished replies."""

    database: Database
    device: DeviceLock
    deployments: Deployments
    unload: Callable[[], object]
    lease_seconds: float

    def __post_init__(self) -> None:
        self._paused = False
        self._alive_at = time.monotonic()  # when a training was last known to be alive
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="device", daemon=True)

    def start(self) -> None:
        """Call it before the deployments start: the server may come up in the middle of a training."""
        if not self.device.use():
            self._pause()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self.device.close()

    def _poll(self) -> None:
        healthy = True
        while not self._stopping.wait(POLL_SECONDS):
            try:
                self.check()
                healthy = True
            except Exception:
                if healthy:  # log an outage once, not at every poll
                    log.exception("The state of the device cannot be read; trying again.")
                healthy = False

    def check(self) -> None:
        """Unload the models if a training has claimed the device, and load them again once it is over."""
        claimed = self.device.claimed()
        alive = claimed and self._training_is_alive()
        if alive:
            self._alive_at = time.monotonic()
        if not self._paused:
            if alive:
                self._pause()
            else:
                self.device.use()  # also after a trainer that was silent for too long has gone
        elif not claimed:
            self._resume("The training is over")
        elif time.monotonic() - self._alive_at > self.lease_seconds:
            self._resume("The trainer has the device but has been silent for too long")

    def _pause(self) -> None:
        log.info("A training wants the device: nobody is answered until it ends.")
        self._paused = True
        try:
            self.deployments.pause(self._why, self.unload)
        finally:
            self.device.close()  # even if unloading failed: less memory beats a training that waits for ever

    def _resume(self, why: str) -> None:
        self.device.use()
        log.info("%s: replies go on.", why)
        self.deployments.resume()
        self._paused = False
        freeze_loaded()

    def _training_is_alive(self) -> bool:
        with self.database.read() as session:
            return training_runs.leased_run(session) is not None

    def _why(self) -> Busy:
        with self.database.read() as session:
            run = training_runs.active_run(session)
        left = run.progress.get("seconds_left") if run is not None and run.progress else None
        seconds = min(max(math.ceil(left or USUAL_SECONDS), 5), LONGEST_SECONDS)
        return Busy(
            "The model is being trained, which takes the whole machine; ask again in about {seconds} s.",
            retry_after=seconds,
            code="training",
            seconds=seconds,
        )
