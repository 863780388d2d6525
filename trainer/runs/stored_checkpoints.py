"""Keeps the newest checkpoint of a run in the artifact store, so that another machine can go on with the run.

With it go the sampled rows, without which the rows would be others.
"""

import logging
import shutil
import tempfile
import threading
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from storage.errors import ArtifactRefused, StoreUnavailable
from storage.files.atomic import rename, sync_tree
from storage.files.object_store import ObjectStore
from storage.registry.artifacts import Artifacts
from storage.registry.stored_artifacts import RUNS, StoredArtifacts
from trainer.engine.trl_trainer import newest_checkpoint, step_of
from trainer.errors import Interrupted
from trainer.taste.sampled_rows import SAMPLED_FILE

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5


class StoredCheckpoints:
    """A context manager around the training, which uploads from a thread. Without a store it does nothing.

    `rows` says what is trained on: checkpoints of other rows are never fetched.
    """

    def __init__(self, artifacts: Artifacts, run_id: str, rows: object) -> None:
        self._store = artifacts.store if isinstance(artifacts, StoredArtifacts) else None
        self._folder = artifacts.run_folder(run_id)
        self._checkpoints = self._folder / "checkpoints"
        self._place = f"{RUNS}/{run_id}/{sha256(repr(rows).encode()).hexdigest()[:16]}"
        self._stored: Path | None = None  # the newest one there
        self._failed: Path | None = None  # the newest one that could not be uploaded
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="checkpoints", daemon=True)

    def fetch(self) -> None:
        """Have the newest checkpoint of the store here, unless there is one that is as new."""
        if self._store is None:
            return
        here = newest_checkpoint(self._checkpoints)
        for step in self._store.numbers(self._place):
            if here is not None and step <= step_of(here):
                return
            try:
                if self._fetch(self._store, step):
                    log.info("Fetched the checkpoint of step %d from %s.", step, self._store.address)
                    return
            except ArtifactRefused as error:
                log.warning("A checkpoint is left out. %s", error)

    def __enter__(self) -> Self:
        if self._store is not None:
            self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._store is None:
            return
        self._stop.set()
        self._thread.join()
        if not isinstance(error, Interrupted) or error.why == "terminated":
            self._upload(self._store.hurried())

    def _follow(self) -> None:
        assert self._store is not None
        store = self._store.hurried()
        while not self._stop.wait(POLL_SECONDS):
            self._upload(store)

    def _upload(self, store: ObjectStore) -> None:
        newest = newest_checkpoint(self._checkpoints)
        if newest is None or newest == self._stored:
            return
        try:
            files = {str(file.relative_to(newest)): file for file in newest.rglob("*") if file.is_file()}
            sampled = self._folder / SAMPLED_FILE
            files |= {SAMPLED_FILE: sampled} if sampled.exists() else {}
            store.put_newest(self._place, step_of(newest), files)
            self._stored = newest
        except FileNotFoundError:
            log.debug("%s was removed for a newer one.", newest.name)
        except StoreUnavailable as error:
            cause = error.__cause__
            removed = isinstance(cause, FileNotFoundError) and str(cause.filename).startswith(str(newest))
            if newest != self._failed and not removed:
                log.warning("%s is not in the artifact store yet. %s", newest.name, error)
            self._failed = newest

    def _fetch(self, store: ObjectStore, step: int) -> bool:
        target = self._checkpoints / f"checkpoint-{step}"
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            part = Path(folder) / target.name
            part.mkdir()
            if not store.fetch(f"{self._place}/{step}", part):
                return False
            if (part / SAMPLED_FILE).exists():
                (part / SAMPLED_FILE).replace(self._folder / SAMPLED_FILE)
            sync_tree(part)
            shutil.rmtree(target, ignore_errors=True)  # one that is not complete
            target.parent.mkdir(exist_ok=True)
            rename(part, target)
        return True
