"""The folder of a training on a file: empty, half done, or finished with an adapter in it.

While a training lasts, all it keeps is in one folder inside; the adapter's files come out of it last,
and then that folder goes. So a folder that has it can be taken up again, and one that has not is done.
Knows no model.
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
    """Raises Conflict if the folder holds anything but an unfinished training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.work = self.folder / UNFINISHED
        self.checkpoints = self.work / "checkpoints"
        self.staging = self.work / "adapter"
        self.done = self.folder / ".done"
        if (folder / "lineage.json").exists():
            shutil.rmtree(self.done, ignore_errors=True)  # of a publish that was killed at its very end
        if self.work.is_dir() or not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise Conflict(f"{folder} is a file; name a new or empty folder with --out.", field="out")
        if any(self.folder.iterdir()):
            what = "holds a finished adapter" if (folder / "lineage.json").exists() else "is not empty"
            raise Conflict(f"{folder} {what}; name a new or empty folder with --out.", field="out")

    @contextmanager
    def claimed(self, identity: Mapping[str, Any]) -> Iterator[bool]:
        """Keep others out; yields whether an earlier attempt at the same training is to be resumed.

        `identity` is what makes a training the same one. Raises Conflict if the folder belongs to another
        one, or if another process is at it, and NotReady if it cannot be written.
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
                # It was finished by another process between the first look and the lock.
                shutil.rmtree(self.work)
                raise Conflict(
                    f"{self.folder} holds a finished adapter; name a new or empty folder with --out.",
                    field="out",
                )
            yield self._is_resumed(identity)

    def publish(self) -> None:
        """Bring the staged adapter out, in whole files, and events; drop what else was kept."""
        if (events := self.work / "tensorboard").exists():
            shutil.rmtree(self.folder / events.name, ignore_errors=True)  # of a publish that was killed
            events.rename(self.folder / events.name)
        sync_tree(self.staging)
        for file in sorted(self.staging.iterdir()):
            file.replace(self.folder / file.name)
        sync(self.folder)
        self.work.rename(self.done)  # in one step: half removed, it would be an unfinished training
        shutil.rmtree(self.done, ignore_errors=True)  # another process may be at it, which came too late

    def new_staging(self) -> Path:
        """An empty folder to write the adapter into."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir()
        return self.staging

    def _is_resumed(self, identity: Mapping[str, Any]) -> bool:
        file = self.work / "training.json"
        wanted = json.loads(json.dumps(identity))
        try:
            found = json.loads(file.read_text())
        except (OSError, ValueError):  # nothing was begun
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
