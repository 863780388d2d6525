"""The model versions in memory: loads verified ones, and frees the least recently used beyond a limit.

Which versions are needed is up to Deployments.
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from sqlmodel import Session

from app.serving.backend import Backend, ServedVersion
from storage.db.database import Database
from storage.db.tables import ModelVersion
from storage.errors import Busy, StoreUnavailable, ThumbloopError
from storage.registry import model_versions
from storage.registry.artifacts import Artifacts

log = logging.getLogger("thumbloop.serving")

SERVABLE = ("candidate", "ready")  # states
OnSwap = Callable[[str], None]  # called with "done" or "refused"


class LoadedVersions:
    """Safe from any thread. Hold `lock` while a version that must stay loaded is chosen and loaded."""

    def __init__(self, database: Database, artifacts: Artifacts, backend: Backend, most: int) -> None:
        self.database = database
        self.lock = threading.RLock()
        self.refusal: Callable[[], Busy] | None = None  # why nothing may be loaded for now
        self._artifacts = artifacts
        self._backend = backend
        self.most = most
        self._paths: dict[str, str | None] = {}  # version id -> the adapter's path
        self._used: dict[str, float] = {}  # version id -> when it last began a reply or was needed

    def check(self) -> None:
        """Raise Busy while nothing may be loaded."""
        if self.refusal is not None:
            raise self.refusal()

    def load(self, version: ModelVersion) -> ServedVersion:
        """Verify the adapter's folder and load it, unless loaded already. Raises ArtifactRefused, Busy."""
        with self.lock:
            self.check()
            served = self.served(version)
            if not self.is_loaded(version.id):
                self._verify(version)
                self._backend.load(served)
                self._paths[version.id] = version.path
            self.use(version.id)
        return served

    def fetch(self, version: ModelVersion) -> None:
        """Have the adapter's files here, from the artifact store if need be.

        It may take minutes, so it goes before a `load` under the lock. Raises ArtifactRefused and
        StoreUnavailable.
        """
        if self._artifacts.cached:
            self._verify(version)

    def may_fetch(self, version_id: str) -> bool:
        """Whether loading this version may mean to fetch it first."""
        return self._artifacts.cached and not self.is_loaded(version_id)

    def is_here(self, version: ModelVersion) -> bool:
        """Whether loading this version needs no artifact store."""
        return version.path is None or self._artifacts.folder(version.path).is_dir()

    def note_use(self) -> None:
        """Keep what is loaded in the cache of the artifact store."""
        for version_id in self._backend.loaded():
            if (path := self._paths.get(version_id)) is not None:
                self._artifacts.use(path)

    def fetch_if_servable(self, id_or_name: str) -> None:
        """`fetch`, for a version that `load_if_servable` would load."""
        with self.database.read() as session:
            version = model_versions.get_version(session, id_or_name)
        if version.state in SERVABLE:
            self.fetch(version)

    def load_if_servable(self, id_or_name: str) -> ModelVersion:
        """Find the version, and load it unless its state forbids to serve it: storage refuses that one.

        One that is loaded already is verified again: the next start would refuse it if it was damaged since.
        """
        with self.database.read() as session:
            version = model_versions.get_version(session, id_or_name)
        if version.state in SERVABLE:
            if self.is_loaded(version.id):
                self._verify(version)
            self.load(version)
        return version

    def _verify(self, version: ModelVersion) -> None:
        if version.path is not None:
            self._artifacts.verify(version.path, version.files)

    def use(self, version_id: str) -> None:
        self._used[version_id] = time.monotonic()

    def free(self, needed: Sequence[str]) -> None:
        """Unload down to the limit, least recently used first; the first needed versions that fit stay.

        A version with a reply under way is left for a later call.
        """
        with self.lock:
            self._free(self.most, needed[: self.most])

    def make_room(self, needed: Sequence[str], answering: Sequence[str]) -> bool:
        """Unload until one more version fits; False if that is not possible.

        The `answering` versions stay. The other `needed` ones are unloaded last.
        """
        with self.lock:
            self._free(self.most - 1, needed)
            self._free(self.most - 1, answering)
            return len(self._backend.loaded()) < self.most

    def _free(self, most: int, kept: Sequence[str]) -> None:
        loaded = set(self._backend.loaded())
        excess = len(loaded) - most
        for version_id in sorted(loaded.difference(kept), key=lambda other: self._used.get(other, 0.0)):
            if excess > 0:
                excess -= self._backend.unload(version_id)

    def is_loaded(self, version_id: str) -> bool:
        return version_id in self._backend.loaded()

    def served(self, version: ModelVersion) -> ServedVersion:
        adapter = self._artifacts.folder(version.path) if version.path is not None else None
        return ServedVersion(version.id, version.name, adapter)


class Follower(ABC):
    """Serves the version that the database names in one role, as deployed or as the canary.

    It polls, because the trainer's gate, the command line and other servers change the database too. A
    failure to load is logged once, and another version goes on answering.
    """

    role: str  # of the version, in log lines

    def __init__(self, versions: LoadedVersions, on_swap: OnSwap = lambda _outcome: None) -> None:
        self.versions = versions
        self._on_swap = on_swap
        self.forget()

    def forget(self) -> None:
        """Note that the models were unloaded; `follow` loads them again."""
        self.version: ServedVersion | None = None  # the loaded version
        self.key: str | None = None  # what the database called it; see `_named`
        self._refused: str | None = None  # the key of one that failed to load
        self._waiting: str | None = None  # the key of one whose model server did not answer

    def follow(self, *, fetch: bool = False) -> None:
        """Load the version that the database names, unless it is served already or failed to load.

        One that may have to be fetched from the artifact store is left alone, unless `fetch`: requests go on
        with the version so far.
        """
        with self.versions.database.read() as session:
            key, version_id = self._named(session)
        if key == (self._refused or self.key):
            return
        if key and version_id and self.versions.may_fetch(version_id):
            here = fetch and self._fetch(key, version_id)
            if not here:
                return
        with self.versions.lock:
            with self.versions.database.read() as session:  # the last holder of the lock may have changed it
                key, version_id = self._named(session)
                version = model_versions.get_version(session, version_id) if version_id else None
            if key is not None and key == self._refused:
                return
            if key == self.key:
                self._refused = None  # the role moved on; if it returns to the failed version, try again
                return
            self._change(key, version)

    def _fetch(self, key: str, version_id: str) -> bool:
        with self.versions.database.read() as session:
            version = model_versions.get_version(session, version_id)
        try:
            self.versions.fetch(version)
        except Exception as error:
            with self.versions.lock:
                self._fail(key, version, error)
            return False
        return True

    def _change(self, key: str | None, version: ModelVersion | None) -> None:
        """Serve what the database names now, if it can be loaded."""
        if key is None or version is None:
            return
        try:
            served = self.versions.load(version)
        except Exception as error:  # whatever happened, another version must keep replying
            self._fail(key, version, error)
        else:
            self.serve(key, served)

    def _fail(self, key: str, version: ModelVersion, error: Exception) -> None:
        """Say once why a version is not served; try again where a server or the store did not answer."""
        problem = "%s is %s but %s, so %s: %s"
        if isinstance(error, Busy):
            if self._waiting != key:
                waits = "artifact store" if isinstance(error, StoreUnavailable) else "model server"
                why = f"waits for the {waits}"
                log.error(problem, version.name, self.role, why, self._fallback(), error)
            self._waiting = key
            return
        self._refused = key
        unexpected = not isinstance(error, ThumbloopError)
        log.error(
            *(problem, version.name, self.role, "cannot be served", self._fallback(), error),
            exc_info=unexpected,
        )
        self._on_swap("refused")

    def serve(self, key: str, served: ServedVersion) -> None:
        """Send new replies to this version; replies under way finish on the one they began with."""
        self.version, self.key = served, key  # in this order: a reader looks at the key first
        self._refused = self._waiting = None

    @abstractmethod
    def _named(self, session: Session) -> tuple[str | None, str | None]:
        """The key and the version's id. The key changes whenever the database names something else."""

    @abstractmethod
    def _fallback(self) -> str:
        """Who answers instead of a version that cannot be served, as a clause."""
