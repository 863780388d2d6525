"""The model versions in memory: loads verified ones, and frees the least recently used beyond a limit.

Which versions are needed is up to Deployments.
"""

import threading
import time
from collections.abc import Callable, Sequence

from app.serving.backend import Backend, ServedVersion
from storage.db.tables import ModelVersion
from storage.errors import Busy
from storage.registry.artifacts import Artifacts


class LoadedVersions:
    """Safe from any thread; one version is loaded at a time."""

    def __init__(self, artifacts: Artifacts, backend: Backend, most: int) -> None:
        self._artifacts = artifacts
        self._backend = backend
        self._most = most
        self._lock = threading.Lock()
        self._used: dict[str, float] = {}  # version id -> when it last began a reply or was needed
        self.refusal: Callable[[], Busy] | None = None  # why nothing may be loaded for now

    def check(self) -> None:
        """Raise Busy while nothing may be loaded."""
        if self.refusal is not None:
            raise self.refusal()

    def build(self, version: ModelVersion) -> ServedVersion:
        """Verify the adapter's folder and load it, unless loaded already. Raises ArtifactRefused, Busy."""
        with self._lock:
            self.check()
            if version.id not in self._backend.loaded():
                if version.path is not None:
                    self._artifacts.verify(version.path, version.files)
                self._backend.load(self._served(version))
            self.use(version.id)
        return self._served(version)

    def use(self, version_id: str) -> None:
        self._used[version_id] = time.monotonic()

    def find(self, version: ModelVersion) -> ServedVersion | None:
        """The version if it is loaded; does not wait for one that is being loaded."""
        return self._served(version) if version.id in self._backend.loaded() else None

    def free(self, needed: Sequence[str]) -> None:
        """Unload down to the limit, least recently used first; the first needed versions that fit stay.

        A version with a reply under way is left for a later call.
        """
        with self._lock:
            self._free(self._most, needed[: self._most])

    def make_room(self, needed: Sequence[str], answering: Sequence[str]) -> bool:
        """Unload until one more version fits; False if that is not possible.

        The `answering` versions stay. The other `needed` ones are unloaded last.
        """
        with self._lock:
            self._free(self._most - 1, needed)
            self._free(self._most - 1, answering)
            return len(self._backend.loaded()) < self._most

    def _free(self, most: int, kept: Sequence[str]) -> None:
        loaded = set(self._backend.loaded())
        excess = len(loaded) - most
        for version_id in sorted(loaded.difference(kept), key=lambda other: self._used.get(other, 0.0)):
            if excess > 0:
                excess -= self._backend.unload(version_id)

    def is_missing(self, version_id: str, needed: Sequence[str]) -> bool:
        """Whether the version is needed and fits, but is not loaded."""
        return version_id in needed[: self._most] and version_id not in self._backend.loaded()

    def _served(self, version: ModelVersion) -> ServedVersion:
        adapter = self._artifacts.folder(version.path) if version.path is not None else None
        return ServedVersion(version.id, version.name, adapter)
