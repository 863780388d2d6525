"""What is left of the machine for a training: memory, and what a full disk looks like to its libraries.

Knows no model and no run.
"""

import errno
import re
from pathlib import Path

import psutil
from safetensors import SafetensorError

from storage.files import disk_full

# By version of control groups: what limits one, what it has, and what of that are files that may be dropped.
GROUPS = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def is_full(error: BaseException) -> bool:
    """Whether an error of the system, a database, safetensors or torch says that the disk is full."""
    if isinstance(error, SafetensorError):
        code = re.search(r"os error (\d+)", str(error))
        return code is not None and int(code[1]) in disk_full.NO_ROOM
    # What torch writes with has no error of its own for it, but says why it could not open a file.
    said = str(error) if isinstance(error, RuntimeError) else ""
    return disk_full.is_full(error) or ("inline_container" in said and "strerror" not in said)


def is_damaged(error: BaseException) -> bool:
    """Whether safetensors or torch says so of a file that it reads. Neither names the file."""
    if isinstance(error, OSError):
        return error.errno == errno.EINVAL and error.filename is None
    if isinstance(error, RuntimeError):
        return "PytorchStreamReader" in str(error)
    return isinstance(error, EOFError | SafetensorError)


def free_memory(mounted: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this process may still take: of the machine, or of a container's limit where that is less.

    `own` lists the control groups that the process is in, and they are below `mounted`.
    """
    free: list[int] = [psutil.virtual_memory().available]
    try:
        lines = own.read_text().splitlines()
    except OSError:  # another system
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
    except (OSError, ValueError):  # no group, or one without a limit
        return None
