"""Files under their final name only once they are whole: written aside, synced, renamed.

Readable by their owner alone, because exports hold what people said. Knows no rows.
"""

import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.errors import Conflict, InvalidInput
from storage.files.atomic import sync
from storage.files.disk_full import is_full, no_room

# Beside an exported file stands its manifest, under its name with this end.
MANIFEST_END = ".manifest.json"


@dataclass(frozen=True)
class Written:
    sha256: str
    size: int


def write_file(target: Path, chunks: Iterable[bytes], *, about: Path | None = None) -> Written:
    """Replace `target` by these bytes, or leave it as it was if anything fails; errors name `about` instead.

    Raises InvalidInput where nothing can be written there, NotReady where there is no room.
    """
    with _aside(target, about or target) as (descriptor, part):
        written = _write(descriptor, chunks)
        part.replace(target)
        sync(target.parent)
    return written


def write_with_manifest(
    target: Path, chunks: Iterable[bytes], beside: Path, manifest: Callable[[Written], Iterable[bytes]]
) -> Written:
    """Replace `target` by these bytes, and `beside` by what the manifest then is; raises as write_file."""
    with _aside(target, target) as (descriptor, part):
        written = _write(descriptor, chunks)
        with _aside(beside, beside) as (manifest_descriptor, manifest_part):
            _write(manifest_descriptor, manifest(written))
            # Two names cannot change at once. A crash between them leaves a whole file without a manifest:
            # never one beside the manifest of another, so the old one goes first and the new one comes last.
            beside.unlink(missing_ok=True)
            sync(beside.parent)
            part.replace(target)
            manifest_part.replace(beside)
            sync(target.parent)
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


@contextmanager
def _aside(target: Path, about: Path) -> Iterator[tuple[int, Path]]:
    """A new file beside `target`, open for writing, which is gone at the end unless it took the name."""
    if target.is_dir():
        raise InvalidInput(f"{target} is a folder; name a file in it.", field="file")
    with _errors_about(about):
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        part = Path(name)
        try:
            yield descriptor, part
        finally:
            part.unlink(missing_ok=True)


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
        if is_full(error):
            raise no_room(target, error.strerror) from error
        raise InvalidInput(f"{target} cannot be written: {error.strerror}.", field="file") from error
    except sqlite3.OperationalError as error:  # a temporary file of storage.examples
        raise no_room(target, error) from error
