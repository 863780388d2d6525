"""Limits of the machine: free memory (container limits included), and errors from a full or damaged disk."""

import errno
import re
from pathlib import Path

import psutil
from safetensors import SafetensorError

from storage.files import disk_full

# Files by cgroup version: the limit, the usage, and the entry of memory.stat for file pages that can be
# dropped.
GROUPS = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def is_full(error: BaseException) -> bool:
    """Whether an error from the system, a database, safetensors or torch means that the disk is full."""
    if isinstance(error, SafetensorError):
        code = re.search(r"os error (\d+)", str(error))
        return code is not None and int(code[1]) in disk_full.NO_ROOM
    # torch has no exception type for a full disk. Its writer's message names no system error, unlike a
    # failure to open a file.
    message = str(error) if isinstance(error, RuntimeError) else ""
    return disk_full.is_full(error) or ("inline_container" in message and "strerror" not in message)


def is_damaged(error: BaseException) -> bool:
    """Whether an error from safetensors or torch means a damaged file. Neither library names the file."""
    if isinstance(error, OSError):
        return error.errno == errno.EINVAL and error.filename is None
    if isinstance(error, RuntimeError):
        return "PytorchStreamReader" in str(error)
    return isinstance(error, EOFError | SafetensorError)


def free_memory(mounted: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this process can still allocate, limited by the machine and by its container.

    `own` is the file that lists the process's control groups; their folders are below `mounted`.
    """
    free: list[int] = [psutil.virtual_memory().available]
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return free[0]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version, top = (1, mounted / "memory") if controllers else (2, mounted)
        group = top / path.lstrip("/")
        free += [found for one in (group, *group.parents) if (found := _free_in(one, version)) is not None]
    return max(min(free), 0)


def _free_in(group: Path, version: int) -> int | None:
    limit, usage, files = GROUPS[version]
    try:
        most, taken = int((group / limit).read_text()), int((group / usage).read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return most - taken + int(counts.get(files, 0))
    except (OSError, ValueError):  # no such group, or no limit
        return None
