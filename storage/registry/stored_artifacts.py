"""Adapters in a store that several machines reach; each data directory is a bounded cache of it.

Everything is below the id of the installation (`model_versions.installation_id`), so several databases may
share an address, and a server sweeps only what belongs to its own.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from storage.db.database import Database
from storage.db.tables import ModelVersion
from storage.errors import ArtifactRefused, Conflict, StoreUnavailable
from storage.files.atomic import written_aside
from storage.files.locks import lock
from storage.files.object_store import ObjectStore
from storage.registry import model_versions
from storage.registry.artifacts import DAY, PART, Artifacts, Published, hash_of_all
from storage.registry.training_runs import active_run
from storage.settings import Settings

log = logging.getLogger("thumbloop.storage")

PATIENCE_SECONDS = 10.0
IN_USE_SECONDS = 60.0  # after its last use an adapter may still be loaded
GB = 10**9
LOCK = ".lock"  # on the folder of adapters, for those who fetch or remove
# The folders of the store. One of `unknown` names an adapter that no version owns, and since when.
ADAPTERS, RUNS, UNKNOWN = "adapters", "runs", "unknown"


class StoredArtifacts(Artifacts):
    """The artifacts of a data directory and of the store."""

    cached = True

    def __init__(self, data_dir: Path, store: ObjectStore, database: Database, cache_gb: float) -> None:
        super().__init__(data_dir)
        self.store = store
        self._database = database
        self._most_bytes = cache_gb * GB

    def seal(self, run_id: str) -> Published:
        """As the base class does, then upload the files. Also raises StoreUnavailable."""
        published = super().seal(run_id)
        self._put(self._staging(run_id), published.path, published.files)
        return published

    def verify(self, path: str, files: Mapping[str, str]) -> Path:
        """As the base class does, after fetching the files if they are missing or damaged here.

        Also raises StoreUnavailable.
        """
        try:
            folder = super().verify(path, files)
        except ArtifactRefused as refused:
            folder = self._fetch(path, files, refused)
        self.use(path)
        return folder

    def use(self, path: str) -> None:
        with suppress(FileNotFoundError):
            os.utime(self.folder(path))

    def tidy_store(self, days: float) -> list[str]:
        """Upload what is only here, such as versions from before there was a store; then sweep the store.

        Removes adapters that no version has owned for this many days, and runs that are over. An adapter is
        marked when it is first found, and any server whose database knows it removes the mark: an older copy
        of the database must not sweep what the newer one knows.
        """
        stored, runs = self.store.names(ADAPTERS), self.store.names(RUNS)
        with self._database.read() as session:  # after the names: what is new since then is not swept
            versions = {Path(one.path).name: one for one in model_versions.list_versions(session) if one.path}
            active = active_run(session)
        for version in versions.values():
            self._share(version)
        keep = {*versions, *([active.id] if active else [])}
        for name in set(runs) - keep:
            self.store.remove(f"{RUNS}/{name}")
        for name in keep.intersection(self.store.names(UNKNOWN)):
            self.store.remove(f"{UNKNOWN}/{name}")
        return [name for name in set(stored) - keep if self._sweep_unknown(name, days)]

    def end_run(self, run_id: str) -> None:
        with lock(self.adapters / LOCK):
            self._shrink()
        try:
            self.store.remove(f"{RUNS}/{run_id}")
        except StoreUnavailable as error:
            log.warning("A server removes the checkpoints of the run %s later. %s", run_id, error)

    def _shrink(self) -> None:
        """Remove adapters here until the rest fits into the cache, those used least recently first.

        What the database says is served, what was used within the last minute and what is not in the store
        stays. Hold the lock.
        """
        found = [(folder, *_use_and_size(folder)) for folder in self.adapters.glob("*") if folder.is_dir()]
        excess = sum(size for *_, size in found) - self._most_bytes
        stored = self._not_served() if excess > 0 else {}
        for folder, used, size in sorted(found, key=lambda one: one[1]):
            name = stored.get(folder.name)
            if excess <= 0:
                break
            with suppress(StoreUnavailable):
                if name and used < time.time() - IN_USE_SECONDS and self.store.manifest(name):
                    shutil.rmtree(folder, ignore_errors=True)
                    excess -= size

    def _put(self, folder: Path, path: str, files: Mapping[str, str]) -> None:
        self.store.put(_stored(path, files), {name: folder / name for name in files})

    def _share(self, version: ModelVersion) -> None:
        assert version.path is not None
        if (
            self.folder(version.path).is_dir()
            and self.store.manifest(_stored(version.path, version.files)) is None
        ):
            try:
                self._put(super().verify(version.path, version.files), version.path, version.files)
            except ArtifactRefused as error:
                log.warning(
                    "%s is not in the artifact store, and cannot be uploaded: %s", version.name, error
                )

    def _sweep_unknown(self, name: str, days: float) -> bool:
        mark = f"{UNKNOWN}/{name}"
        since = self.store.read(mark)
        if since is None:
            self.store.write(mark, json.dumps(time.time()).encode())
        elif json.loads(since) < time.time() - days * DAY:
            self.store.remove(f"{ADAPTERS}/{name}")
            self.store.remove(mark)
            return True
        return False

    def _not_served(self) -> dict[str, str]:
        """Names here and in the store of the versions that are not served, now or after a rollback."""
        with self._database.read() as session:
            canary = model_versions.open_canary(session)
            served = {model_versions.deployed_id(session), canary.version_id if canary else None}
            with suppress(Conflict):
                served.add(model_versions.roll_back_target(session).id)
            versions = model_versions.list_versions(session)
        return {
            Path(one.path).name: _stored(one.path, one.files)
            for one in versions
            if one.path and one.id not in served
        }

    def _fetch(self, path: str, files: Mapping[str, str], refused: ArtifactRefused) -> Path:
        """The folder, fetched and verified, unless another process has done that meanwhile."""
        target = self.folder(path)
        self.adapters.mkdir(mode=0o700, exist_ok=True)
        with lock(self.adapters / LOCK):
            with suppress(ArtifactRefused):
                return super().verify(path, files)
            for abandoned in self.adapters.glob(f"*{PART}"):
                shutil.rmtree(abandoned)
            with written_aside(target, folder=True) as part:
                if not self.store.fetch(_stored(path, files), part):
                    raise self._absent(refused)
                shutil.rmtree(target, ignore_errors=True)
            folder = super().verify(path, files)
            self.use(path)
            self._shrink()
        return folder

    def _absent(self, refused: ArtifactRefused) -> ArtifactRefused | StoreUnavailable:
        """The error for an adapter that is not in the store. A store without any may not be mounted yet."""
        if self.store.names(ADAPTERS):
            return refused
        return StoreUnavailable(
            f"{refused.message} The artifact store {self.store.address} is empty: mount it, or set "
            f"THUMBLOOP_ARTIFACTS to the right one."
        )


def open_artifacts(
    settings: Settings,
    database: Database,
    *,
    patience: float = PATIENCE_SECONDS,
    check: Callable[[], None] = lambda: None,
) -> Artifacts:
    """The artifacts of this installation. With a store, see ObjectStore for `patience` and `check`."""
    if not settings.artifacts:
        return Artifacts(settings.data_dir)
    with database.read() as session:
        installation = model_versions.installation_id(session)
    if installation is None:
        return Artifacts(settings.data_dir)  # a new database has no versions
    address = f"{settings.artifacts.rstrip('/')}/{installation}"
    store = ObjectStore(address, settings.artifacts_options, patience=patience, check=check)
    return StoredArtifacts(settings.data_dir, store, database, settings.artifacts_cache_gb)


def _stored(path: str, files: Mapping[str, str]) -> str:
    """Where the store has an adapter. With its hash: a late upload of another trainer replaces nothing."""
    return f"{path}/{hash_of_all(files)[:32]}"


def _use_and_size(folder: Path) -> tuple[float, int]:
    """When it was last used, and its bytes; another process may be moving it."""
    try:
        return folder.stat().st_mtime, sum(file.stat().st_size for file in folder.iterdir())
    except FileNotFoundError:
        return time.time(), 0
