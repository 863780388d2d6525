"""Locks between processes; the kernel releases those of a process that ends, however it ends."""

from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout


def lock(file: Path, *, wait: bool = True) -> AcquireReturnProxy[FileLock]:
    """Lock this file, which is created if need be, until the end of a `with` block.

    Raises Timeout at once where another process has it and `wait` is off, else OSError. Both are OSErrors.
    """
    # A soft lock, the fallback on file systems without flock, would outlive a killed process.
    return FileLock(file, fallback_to_soft=False).acquire(blocking=wait)


__all__ = ["Timeout", "lock"]
