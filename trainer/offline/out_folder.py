"""The output folder of a training on a file: empty, unfinished, or finished with an adapter in it.

During training everything is kept in a subfolder, `unfinished`. At the end the adapter's files are moved out
of it and the subfolder is removed. So a folder with the subfolder can be resumed, and one without it is done.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storage.errors import Conflict, NotReady
from storage.files.atomic import sync, sync_tree, write_atomically
from storage.files.locks import Timeout, lock

UNFINISHED = "unfinished"


@contextmanager
def claimed_folder(folder: Path, lock_file: str, work: str) -> Iterator[None]:
    """Lock a folder by a file in it, which is created with its parents; `work` says what the lock is for.

    Raises Conflict if another process has locked it, NotReady if the folder cannot be written.
    """
    try:
        file = folder / lock_file
        file.parent.mkdir(parents=True, exist_ok=True)
        held = lock(file, wait=False)
    except Timeout as error:
        reason = f"Another process {work} {folder}; wait for it, or name another folder."
        raise Conflict(reason, field="out") from error
    except OSError as error:
        raise NotReady(f"{folder} cannot be written: {error.strerror}.", field="out") from error
    with held:
        yield


class OutFolder:
    """An output folder. Raises Conflict if it holds anything but an unfinished training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.work = self.folder / UNFINISHED
        self.checkpoints = self.work / "checkpoints"
        self.staging = self.work / "adapter"
        self.done = self.folder / ".done"
        self.lineage = self.folder / "lineage.json"
        if self.lineage.exists():
            shutil.rmtree(self.done, ignore_errors=True)  # left by a publish that was killed at its very end
        if self.work.is_dir() or not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise self._refused("is a file")
        if any(self.folder.iterdir()):
            raise self._refused("holds a finished adapter" if self.lineage.exists() else "is not empty")

    def _refused(self, why: str) -> Conflict:
        return Conflict(f"{self.folder} {why}; name a new or empty folder with --out.", field="out")

    @contextmanager
    def claimed(self, identity: Mapping[str, Any]) -> Iterator[bool]:
        """Lock the folder; yields whether an earlier attempt at the same training is to be resumed.

        `identity` defines what counts as the same training. Raises Conflict if the folder belongs to a
        different one or if another process is using it, and NotReady if it cannot be written.
        """
        with claimed_folder(self.folder, f"{UNFINISHED}/lock", "is training into"):
            if self.lineage.exists() and not self.checkpoints.exists():
                # Another process finished it after this one opened it and before the lock.
                shutil.rmtree(self.work)
                raise self._refused("holds a finished adapter")
            yield self._is_resumed(identity)

    def publish(self) -> None:
        """Move the staged adapter's complete files and the TensorBoard events out; delete everything else."""
        if (events := self.work / "tensorboard").exists():
            shutil.rmtree(self.folder / events.name, ignore_errors=True)  # of a publish that was killed
            events.rename(self.folder / events.name)
        sync_tree(self.staging)
        for file in sorted(self.staging.iterdir()):
            file.replace(self.folder / file.name)
        sync(self.folder)
        self.work.rename(self.done)  # in one step: a half-removed folder would look unfinished
        shutil.rmtree(self.done, ignore_errors=True)  # a late process may be holding the lock in it

    def new_staging(self) -> Path:
        """An empty folder for the adapter."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir()
        return self.staging

    def _is_resumed(self, identity: Mapping[str, Any]) -> bool:
        file = self.work / "training.json"
        wanted = json.loads(json.dumps(identity))
        try:
            found = json.loads(file.read_text())
        except (OSError, ValueError):  # nothing was started
            write_atomically(file, json.dumps(wanted, indent=2, sort_keys=True) + "\n")
            return False
        changed = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if changed:
            raise Conflict(
                f"{self.folder} holds an unfinished training with another {', '.join(changed)}; repeat that "
                f"command to finish it, or name another folder with --out.",
                field="out",
            )
        return True
