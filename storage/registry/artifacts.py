"""Adapter folders: staged, hashed, synced and renamed into place; verified before they are loaded.

A folder may hold only known files with known hashes; anything else, above all a pickle, is refused. Tensors
are not checked here: the code that loads an adapter checks that it fits the model.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.errors import ArtifactRefused, Conflict, NotReady
from storage.files.atomic import rename, sync_tree, write_atomically

WEIGHTS = "adapter_model.safetensors"
REQUIRED = ("adapter_config.json", WEIGHTS)
ALLOWED = (*REQUIRED, "README.md", "lineage.json")
INSTALLATION = "installation.id"
PART = ".part"  # ends the name of a folder that another process is filling
DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class Published:
    """A finished adapter folder; `path` is relative to the data directory, `sha256` covers all files."""

    path: str
    sha256: str
    files: dict[str, str]


class Artifacts:
    """The adapter and run folders of one data directory."""

    cached = False  # whether the adapters are copies of those in a store

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.adapters = self.data_dir / "adapters"
        self.runs = self.data_dir / "runs"
        self.trash = self.data_dir / "trash"

    def check_installation(self, database_id: str | None, database: str) -> None:
        """Refuse a data directory and a database that do not belong together.

        `database_id` is the id of v1, which the first start gives a database; None if it is new. Raises
        Conflict, which names both.
        """
        file = self.data_dir / INSTALLATION
        known = file.read_text().strip() if file.exists() else None
        trained = sum(folder.is_dir() for folder in self.adapters.glob("*"))
        if known == database_id if known else database_id or not trained:
            return
        theirs = f"belongs to the installation {known}" if known else f"holds {trained} trained adapters"
        ours = f"belongs to {database_id}" if database_id else "is new"
        raise Conflict(
            f"The data directory {self.data_dir} {theirs}, but the database {database} {ours}: set "
            f"THUMBLOOP_DATABASE_URL or THUMBLOOP_DATA_DIR to the one that belongs to the other. To use them "
            f"together nevertheless, move {file.name} and adapters/ out of the data directory first.",
            code="other_installation",
        )

    def note_installation(self, database_id: str) -> None:
        """Record which database this data directory belongs to."""
        if not (self.data_dir / INSTALLATION).exists():
            write_atomically(self.data_dir / INSTALLATION, f"{database_id}\n")

    def folder(self, path: str) -> Path:
        """The absolute folder of a stored path."""
        return self.data_dir / path

    def run_folder(self, run_id: str) -> Path:
        """The folder for a run's log and checkpoints, created if needed."""
        folder = self.runs / run_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def staging(self, run_id: str) -> Path:
        """A new empty folder to write an adapter into."""
        folder = self._staging(run_id)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def seal(self, run_id: str) -> Published:
        """Hash the staged folder and sync it to disk; returns what `publish` will put in place.

        Raises ArtifactRefused for an unexpected or missing file, NotReady if it cannot be written.
        """
        staging, final = self._staging(run_id), self.adapters / run_id
        files = _hash_folder(staging)
        with _written(final):
            sync_tree(staging)
        return Published(str(final.relative_to(self.data_dir)), hash_of_all(files), files)

    def publish(self, run_id: str) -> None:
        """Rename the sealed folder to its final name; raises NotReady if that fails.

        It replaces a folder that an earlier attempt left behind before its row was written.
        """
        final = self.adapters / run_id
        with _written(final):
            shutil.rmtree(final, ignore_errors=True)
            rename(self._staging(run_id), final)

    def verify(self, path: str, files: Mapping[str, str]) -> Path:
        """The folder, if it holds exactly these files with these hashes; else raises ArtifactRefused."""
        folder = self.folder(path)
        found = _hash_folder(folder)
        for name, digest in found.items():
            if name not in files:
                raise _refused(folder, f"{name} was not there when it was published")
            if digest != files[name]:
                raise _refused(folder, f"{name} has changed since it was published (sha256 {digest[:12]}…)")
        for name in files.keys() - found.keys():
            raise _refused(folder, f"{name} is missing")
        return folder

    def use(self, path: str) -> None:
        """Note that a version is loaded, for a data directory that caches a store."""

    def end_run(self, run_id: str) -> None:
        """Remove what a store has for further attempts of a run that is over, and bound the cache."""

    def tidy_store(self, days: float) -> list[str]:
        """Upload and sweep, once a day, if there is a store; returns the names that were removed."""
        return []

    def sweep(self, known_paths: Iterable[str], active_runs: Iterable[str] = ()) -> list[str]:
        """Move adapter folders of no version and no active run to `trash`; returns their names."""
        keep = {Path(path).name for path in known_paths}
        keep |= {name for run_id in active_runs for name in (run_id, self._staging(run_id).name)}
        swept = [
            path.name
            for path in self.adapters.glob("*")
            if path.is_dir() and path.name not in keep and path.suffix != PART
        ]
        for name in swept:
            self.trash.mkdir(mode=0o700, exist_ok=True)
            target = self.trash / name
            while target.exists():
                target = target.with_name(f"{target.name}.again")
            rename(self.adapters / name, target)
            os.utime(target)  # the days in the trash begin now
        return swept

    def empty_trash(self, days: float) -> list[str]:
        """Remove what has been in the trash for this many days; returns the names."""
        before = time.time() - days * DAY
        old = [path for path in self.trash.glob("*") if path.is_dir() and path.stat().st_mtime < before]
        for path in old:
            shutil.rmtree(path)
        return [path.name for path in old]

    def _staging(self, run_id: str) -> Path:
        return self.adapters / f"{run_id}.tmp"


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotReady(
            f"The adapter {folder} could not be written ({error.strerror}); free some space."
        ) from error


def _hash_folder(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise _refused(folder, "the folder is missing")
    hashes = {}
    for file in sorted(folder.iterdir()):
        if file.name not in ALLOWED or file.is_symlink() or not file.is_file():
            raise _refused(folder, f"{file.name} is not a file that an adapter may have")
        hashes[file.name] = hash_file(file)
    for name in REQUIRED:
        if name not in hashes:
            raise _refused(folder, f"{name} is missing")
    return hashes


def hash_of_all(files: Mapping[str, str]) -> str:
    """One hash for an adapter, from those of its files."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()


def hash_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _refused(folder: Path, why: str) -> ArtifactRefused:
    return ArtifactRefused(
        f"The adapter {folder} is refused: {why}. Restore it from a backup or train again."
    )
