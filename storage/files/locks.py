"""File locks between processes. The kernel releases them when the process ends, even if it is killed."""

from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout


def lock(file: Path, *, wait: bool = True) -> AcquireReturnProxy[FileLock]:
    """Lock this file until the end of a `with` block, creating it if needed.

    Raises Timeout, an OSError, at once if another process holds it and `wait` is off; OSError if it cannot
    be opened.
    """
    # A soft lock, the fallback on file systems without flock, would outlive a killed process.
    # Not thread_local: one thread may release what another has locked.
    return FileLock(file, fallback_to_soft=False, thread_local=False).acquire(blocking=wait)


__all__ = ["AcquireReturnProxy", "FileLock", "Timeout", "lock"]
