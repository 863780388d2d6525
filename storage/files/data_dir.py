"""The data directory: created and kept private to its owner, whatever the umask.

The secret, the votes and the adapters are in it, so its mode protects them all.
"""

import logging
import os
import stat
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from storage.errors import BadSetting, NotReady
from storage.files.disk_full import is_full, no_room

log = logging.getLogger("thumbloop.storage")

PRIVATE = 0o700
FOR_OTHERS, WRITABLE_BY_OTHERS = 0o077, 0o022
# What Thumbloop keeps in a data directory, and what a new disk or the container's image has there.
FOLDERS = ("adapters", "evaluations", "models", "runs", "sweeps", "trash", "hub")
FILES = ("thumbloop.*", "references.db*", "device.*", "secret.key", "installation.id")
OURS = (*FOLDERS, *FILES, "lost+found", ".*.part")


def make_data_dir(folder: Path) -> None:
    """Create the data directory, or take other users' access to it away.

    Raises BadSetting if it cannot be written, NotReady if the disk is full or it cannot be made private.
    """
    try:
        folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        tempfile.NamedTemporaryFile(dir=folder).close()
    except OSError as error:
        if is_full(error):
            raise no_room(folder, error.strerror) from error
        raise BadSetting(
            f"The data directory {folder} cannot be written ({error.strerror}); "
            f"set THUMBLOOP_DATA_DIR to a folder that can.",
            field="data_dir",
        ) from error
    if is_open(folder):
        mode = _mode(folder)
        folder.chmod(PRIVATE)
        log.info("The mode of %s is now 0700: it was %04o, so others could read it.", folder, mode)


def is_open(folder: Path) -> bool:
    """Whether others can read the data directory, so that a start makes it private.

    Raises NotReady if they can write to it, if it is not ours, if it holds files of something else, or if
    something in it is not what it has to be or cannot be read.
    """
    mode = _mode(folder)
    if folder.stat().st_uid != os.geteuid():
        why = "belongs to another user, who can read what is in it"
        remedy = f"`chown {os.geteuid()} {folder}`"
    elif mode & WRITABLE_BY_OTHERS:
        why = "can be written by others"
        remedy = f"Check that nobody put files into it, then `chmod 700 {folder}`"
    elif mode & FOR_OTHERS and (strange := _strange(folder)) is not None:
        why = f"can be read by others and holds {strange}, which is not Thumbloop's"
        remedy = f"`chmod 700 {folder}`"
    else:
        _check_kinds(folder)
        return bool(mode & FOR_OTHERS)
    raise NotReady(
        f"The data directory {folder} (mode {mode:04o}) {why}. {remedy}, or set THUMBLOOP_DATA_DIR to a new "
        "folder.",
        code="not_private",
    )


def _check_kinds(folder: Path) -> None:
    """What has to be a file or a folder is one, and can be read: after a copy gone wrong it may not be."""
    for path in sorted(folder.iterdir()):
        if path.name in FOLDERS:
            kind, is_right = "folder", path.is_dir()
        elif any(fnmatch(path.name, ours) for ours in FILES):
            # SQLite removes its logs at any time. An `open` here would drop the locks that it has.
            kind, is_right = "file", path.is_file() or not os.path.lexists(path)
        else:
            continue
        if not is_right:
            why = f"is no {kind}"
        elif path.exists() and not os.access(path, os.R_OK):
            why = "cannot be read"
        else:
            continue
        raise NotReady(f"{path} {why}, so nothing can start. Move it away, or restore it from a backup.")


def _mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def _strange(folder: Path) -> str | None:
    names = sorted(path.name for path in folder.iterdir())
    return next((name for name in names if not any(fnmatch(name, ours) for ours in OURS)), None)
