"""A training's turn on a device that it does not share: claimed before its model is loaded.

Knows the lock and the lease; who has to make way is for them to see.
"""

import time
from collections.abc import Callable

from storage.registry.device_lock import DeviceLock
from storage.settings import Settings
from trainer.runs.lease import Lease

POLL_SECONDS = 0.1


def wait_for_device(settings: Settings, lease: Lease, phase: Callable[[str], None]) -> None:
    """Where the device is not shared, wait until no server uses it; raises Interrupted.

    It stays claimed until this process ends, for only then its memory is free.
    """
    if settings.device_mode == "share":
        return
    phase("waiting for the server to make way")
    device = DeviceLock(settings.data_dir)
    while not device.claim():
        lease.check()
        time.sleep(POLL_SECONDS)
