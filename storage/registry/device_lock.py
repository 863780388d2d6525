"""Who has the one device of a machine: two file locks in the data directory.

The kernel keeps them, so a killed process gives them up. A server *uses* the device; a training *claims* it
and then waits until no server uses it.
"""

import fcntl
import os
from pathlib import Path

CLAIM, USE = "device.claim", "device.use"


class DeviceLock:
    """One process's hold on the device of a data directory; given up by `close` and by the process's end."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.absolute()
        self._held: dict[str, int] = {}  # open files by name

    def claim(self) -> bool:
        """For a training: say that it wants the device for itself; True once no server uses it."""
        return self._lock(CLAIM, fcntl.LOCK_EX) and self._lock(USE, fcntl.LOCK_EX)

    def use(self) -> bool:
        """For a server, shared with others: False while a training has the device or wants it."""
        return not self.claimed() and self._lock(USE, fcntl.LOCK_SH)

    def claimed(self) -> bool:
        """Whether a training elsewhere has the device or wants it."""
        file = self._open(CLAIM)
        try:
            return not _locked(file, fcntl.LOCK_SH)
        finally:
            os.close(file)

    def close(self) -> None:
        """Give up what this process holds."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _lock(self, name: str, kind: int) -> bool:
        if name not in self._held:
            file = self._open(name)
            if not _locked(file, kind):
                os.close(file)
                return False
            self._held[name] = file
        return True

    def _open(self, name: str) -> int:
        return os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o600)


def _locked(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
