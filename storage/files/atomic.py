"""Atomic writes: a file or folder gets its name only once it is complete and on disk."""

import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(target: Path, *, folder: bool = False, private: bool = False) -> Iterator[Path]:
    """Yield an empty file or folder next to `target` to fill; at the end, sync it and rename it to `target`.

    If anything raises, `target` is unchanged. A replaced file's permissions are kept, unless `private`, which
    gives access to the owner only. A folder cannot replace one that is not empty. Raises OSError.
    """
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        if folder:
            part.mkdir(mode=0o700 if private else 0o777)
        else:
            part.touch(mode=0o600 if private else 0o666, exist_ok=False)
            if target.exists() and not private:
                part.chmod(stat.S_IMODE(target.stat().st_mode))
        yield part
        sync_tree(part)
        rename(part, target)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)


def write_atomically(target: Path, content: str | Iterable[bytes], *, private: bool = False) -> None:
    """Replace `target` with this text or these chunks; raises OSError."""
    with written_aside(target, private=private) as part, part.open("wb") as file:
        file.writelines([content.encode()] if isinstance(content, str) else content)


def rename(part: Path, target: Path) -> None:
    """Rename a file or folder durably; it replaces a file or an empty folder."""
    part.replace(target)
    sync(target.parent)


def sync_tree(path: Path) -> None:
    """Return once a file, or a folder with all its contents, is on disk."""
    if path.is_dir():
        for inner in path.iterdir():
            sync_tree(inner)
    sync(path)


def sync(path: Path) -> None:
    """Return once a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
