"""Files under their final name only once they are whole: written aside, synced, renamed.

Readable by their owner alone, because exports hold what people said. Knows no rows.
"""

import errno
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.errors import Conflict, InvalidInput, NotReady
from storage.sync import sync

# A full disk, a full quota, a file over the limit of this process, a broken disk.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

# Beside an exported file stands its manifest, under its name with this end.
MANIFEST_END = ".manifest.json"


@dataclass(frozen=True)
class Written:
    sha256: str
    size: int


def write_file(
    target: Path, chunks: Iterable[bytes], before_naming: Callable[[Written], object] = lambda _: None
) -> Written:
    """Replace `target` by these bytes, or leave it as it was if anything fails, `before_naming` included.

    Raises InvalidInput where nothing can be written there, NotReady where there is no room.
    """
    if target.is_dir():
        raise InvalidInput(f"{target} is a folder; name a file in it.", field="file")
    with _errors_about(target):
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        aside = Path(name)
        try:
            written = _write(descriptor, chunks)
            before_naming(written)
            aside.replace(target)
            sync(target.parent)
        finally:
            aside.unlink(missing_ok=True)
    return written


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name `target` at the end unless something raises.

    Raises Conflict if there is something under that name already, else as write_file.
    """
    with _errors_about(target):
        if target.is_dir() and any(target.iterdir()):
            raise Conflict(f"The folder {target} is not empty; remove it or name another.", field="file")
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        try:
            yield aside
            for folder, _, _ in os.walk(aside):
                sync(Path(folder))
            aside.replace(target)
            sync(target.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _write(descriptor: int, chunks: Iterable[bytes]) -> Written:
    digest, size = hashlib.sha256(), 0
    with os.fdopen(descriptor, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return Written(digest.hexdigest(), size)


@contextmanager
def _errors_about(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise _no_room(target, error.strerror) from error
        raise InvalidInput(f"{target} cannot be written: {error.strerror}.", field="file") from error
    except sqlite3.OperationalError as error:  # the temporary files of storage.duplicates and storage.pairs
        raise _no_room(target, error) from error


def _no_room(target: Path, why: object) -> NotReady:
    return NotReady(
        f"{target} could not be written ({why}); nothing new is under that name. "
        f"Free some space, for temporary files too, or write elsewhere.",
        code="no_room",
        field="file",
    )
