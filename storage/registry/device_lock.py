"""Shares one device between serving and training, by two file locks in the data directory.

A server *uses* the device; a training run *claims* it, then waits until no server uses it. The kernel
releases the locks of a killed process.
"""

import fcntl
import os
from pathlib import Path

CLAIM, USE = "device.claim", "device.use"


class DeviceLock:
    """One process's locks on the device of a data directory; released by `close` or the process's end."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.absolute()
        self._held: dict[str, int] = {}  # open files by name

    def claim(self) -> bool:
        """For training: ask for exclusive use. True once no server uses the device; call again until then."""
        return self._lock(CLAIM, fcntl.LOCK_EX) and self._lock(USE, fcntl.LOCK_EX)

    def use(self) -> bool:
        """For a server, shared with other servers: False while a training run holds or claims the device."""
        return not self.claimed() and self._lock(USE, fcntl.LOCK_SH)

    def claimed(self) -> bool:
        """Whether a training run in another process holds or claims the device."""
        file = self._open(CLAIM)
        try:
            return not _locked(file, fcntl.LOCK_SH)
        finally:
            os.close(file)

    def close(self) -> None:
        """Release the locks of this process."""
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
