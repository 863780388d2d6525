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


class OutFolder:
    """An output folder. Raises Conflict if it holds anything but an unfinished training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.work = self.folder / UNFINISHED
        self.checkpoints = self.work / "checkpoints"
        self.staging = self.work / "adapter"
        self.done = self.folder / ".done"
        if (folder / "lineage.json").exists():
            shutil.rmtree(self.done, ignore_errors=True)  # left by a publish that was killed at its very end
        if self.work.is_dir() or not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise Conflict(f"{folder} is a file; name a new or empty folder with --out.", field="out")
        if any(self.folder.iterdir()):
            what = "holds a finished adapter" if (folder / "lineage.json").exists() else "is not empty"
            raise Conflict(f"{folder} {what}; name a new or empty folder with --out.", field="out")

    @contextmanager
    def claimed(self, identity: Mapping[str, Any]) -> Iterator[bool]:
        """Lock the folder; yields whether an earlier attempt at the same training is to be resumed.

        `identity` defines what counts as the same training. Raises Conflict if the folder belongs to a
        different one or if another process is using it, and NotReady if it cannot be written.
        """
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            held = lock(self.work / "lock", wait=False)
        except Timeout as error:
            raise Conflict(
                f"Another process is training into {self.folder}; wait for it, or name another folder.",
                field="out",
            ) from error
        except OSError as error:
            raise NotReady(f"{self.folder} cannot be written: {error.strerror}.", field="out") from error
        with held:
            if (self.folder / "lineage.json").exists() and not self.checkpoints.exists():
                # Another process finished it between the first look and the lock.
                shutil.rmtree(self.work)
                raise Conflict(
                    f"{self.folder} holds a finished adapter; name a new or empty folder with --out.",
                    field="out",
                )
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
