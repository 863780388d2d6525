"""Which version replies: the alias `deployed` of the database, made true in the backend.

Builds the slot of a version before requests go to it, falls back to a slot that works, and frees those
out of use. Knows no tensors and no chats.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence

from app.metrics import Metrics
from app.serving.backend import Backend, ReplyStream, Sampling, ServedVersion
from storage import model_versions
from storage.artifacts import Artifacts
from storage.database import Database
from storage.errors import ArtifactRefused, Busy, Conflict, NotReady, ThumbloopError
from storage.tables import ModelVersion

log = logging.getLogger("thumbloop.serving")

MAX_SLOTS = 3
POLL_SECONDS = 1.0


class Deployments:
    """Follows the database, where the trainer's gate and the command line deploy too."""

    def __init__(
        self, database: Database, artifacts: Artifacts, backend: Backend, metrics: Metrics | None = None
    ) -> None:
        self._metrics = metrics or Metrics()
        self._database = database
        self._artifacts = artifacts
        self._backend = backend
        self._building = threading.RLock()
        self._serving: ServedVersion | None = None
        self._refused: str | None = None  # the deployed version that could not be built: told once
        self._waited_for: str | None = None  # the deployed version whose server did not answer: told once
        self._used: dict[str, float] = {}  # version id -> when it last began a reply or was deployed
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="deployments", daemon=True)

    def start(self) -> None:
        """Build the deployed version, or else the last one before it that can be, and watch the alias.

        The alias stays as it is: an operator has to see what is wrong and decide. Raises NotReady if
        not even the base model replies.
        """
        self._follow()
        if self._serving is None:
            self._fall_back()
        self._watcher.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def current(self) -> ServedVersion:
        """The version for a new reply, its slot ready: the deployed one, or the one that still works."""
        self._follow()
        if self._serving is None:
            raise NotReady("No model version is being served; see the server's log.")
        return self._serving

    def stream(
        self,
        messages: Sequence[Mapping[str, str]],
        sampling: Sampling,
        *,
        person: str = "",
        version_id: str | None = None,
    ) -> tuple[ServedVersion, ReplyStream]:
        """A reply by the current version, or by the one that is named, not yet begun.

        Raises as `Backend.stream` does; for a version that has to be built first also ArtifactRefused, and
        Busy where no slot is free for it.
        """
        try:
            return self._stream(messages, sampling, person, version_id)
        except NotReady as error:
            if error.code != "not_loaded":
                raise
        # The slot was freed between choosing and using it.
        return self._stream(messages, sampling, person, version_id)

    def share_of_context(self, messages: Sequence[Mapping[str, str]]) -> float:
        """As `Backend.share_of_context`."""
        return self._backend.share_of_context(messages)

    def deploy(self, id_or_name: str, *, by: str, why: str) -> ModelVersion:
        """Build and try the version, then move the alias: a refused adapter changes nothing.

        Raises NotFound, Conflict (rejected or retired), ArtifactRefused.
        """
        with self._building:
            with self._database.read() as session:
                version = model_versions.get_version(session, id_or_name)
            if version.state in ("candidate", "ready"):  # others are refused below
                self._build(version)
            with self._database.write() as session:
                version = model_versions.deploy_version(session, version.id, by=by, why=why)
            self._serve(version)
        return version

    def roll_back(self, *, by: str, why: str) -> ModelVersion:
        """Deploy what answered before; loads nothing while its slot is there. Raises as `deploy` does."""
        with self._building:
            with self._database.read() as session:
                target = model_versions.roll_back_target(session)
            return self.deploy(target.id, by=by, why=why)

    def _stream(
        self, messages: Sequence[Mapping[str, str]], sampling: Sampling, person: str, version_id: str | None
    ) -> tuple[ServedVersion, ReplyStream]:
        version = self.current() if version_id is None else self._named(version_id)
        self._used[version.id] = time.monotonic()
        return version, self._backend.stream(version.id, messages, sampling, person=person)

    def _named(self, version_id: str) -> ServedVersion:
        """That version, its slot ready; one that is not deployed takes the slot of the least used."""
        with self._database.read() as session:
            version = model_versions.get_version(session, version_id)
        if version.id not in self._backend.loaded():
            with self._building:
                self._free_unused(MAX_SLOTS - 1)
                if len(self._backend.loaded()) >= MAX_SLOTS:
                    raise Busy(
                        f"{MAX_SLOTS} versions are replying, which is the most; {version.name} has to wait. "
                        f"Try again in a moment, or ask for the deployed version."
                    )
                self._used[version.id] = time.monotonic()
                self._build(version)
        return _served(version, self._artifacts)

    def _follow(self) -> None:
        """Serve what the database says, unless that is so already or was found impossible."""
        with self._database.read() as session:
            deployed = model_versions.deployed_version(session)
        if self._is_settled(deployed):
            return
        with self._building:
            with self._database.read() as session:  # whoever held the lock may have moved the alias
                deployed = model_versions.deployed_version(session)
            if self._is_settled(deployed):
                return
            try:
                self._build(deployed)
            except Busy as error:  # a model server that does not answer refuses nothing: ask again
                if self._waited_for != deployed.id:
                    log.error("%s is deployed, but waits for the model server: %s", deployed.name, error)
                self._waited_for = deployed.id
            except Exception as error:  # whatever it is, the version that works has to go on working
                self._refused = deployed.id
                self._metrics.swapped("refused")
                kept = (
                    f"{self._serving.name} keeps replying" if self._serving else "an earlier one will reply"
                )
                log.error(
                    "%s is deployed but cannot be served, so %s: %s",
                    deployed.name,
                    kept,
                    error,
                    exc_info=not isinstance(error, ThumbloopError),
                )
            else:
                self._serve(deployed)

    def _is_settled(self, deployed: ModelVersion) -> bool:
        if self._serving is not None and self._serving.id == deployed.id:
            self._refused = None  # the alias went elsewhere; should it come back, try again
            return True
        return deployed.id == self._refused

    def _fall_back(self) -> None:
        """At start: serve the newest of the versions deployed before that can be built."""
        with self._database.read() as session:
            rows = model_versions.deployments(session, limit=100)
            ids = dict.fromkeys(row.version_id for row in rows)
            versions = [model_versions.get_version(session, version_id) for version_id in ids]
            base = model_versions.get_version(session, "v1")
        for version in versions:
            if version.id in (self._refused, base.id) or version.state != "ready":
                continue
            try:
                self._build(version)
            except (ArtifactRefused, Busy, Conflict) as error:
                log.error("%s, deployed before, cannot be served either: %s", version.name, error)
            else:
                break
        else:
            version = base
            self._build(base)
        self._serving = _served(version, self._artifacts)
        log.error("%s replies in place of the deployed version. Deploy one that works.", version.name)

    def _build(self, version: ModelVersion) -> None:
        """Verify the adapter's folder and load it; raises ArtifactRefused."""
        if version.id in self._backend.loaded():
            return
        if version.path is not None:
            self._artifacts.verify(version.path, version.files)
        self._backend.load(_served(version, self._artifacts))

    def _serve(self, version: ModelVersion) -> None:
        """New replies go to this version; those under way end on the one they began with."""
        self._used[version.id] = time.monotonic()
        if self._serving is not None and self._serving.id != version.id:
            self._metrics.swapped("done")
        self._serving = _served(version, self._artifacts)
        self._refused = self._waited_for = None
        log.info("%s replies from now on.", version.name)
        self._free_unused()

    def _free_unused(self, most: int = MAX_SLOTS) -> None:
        with self._building:
            loaded = sorted(self._backend.loaded(), key=lambda version_id: self._used.get(version_id, 0.0))
            excess = len(loaded) - most
            for version_id in loaded:
                if excess > 0 and version_id != (self._serving and self._serving.id):
                    excess -= self._backend.unload(version_id)

    def _watch(self) -> None:
        healthy = True
        while not self._stopping.wait(POLL_SECONDS):
            try:
                self._follow()
                self._free_unused()
                healthy = True
            except Exception:
                if healthy:  # say an outage of the database once, not every second
                    log.exception("The deployed version cannot be looked up; trying again.")
                healthy = False


def _served(version: ModelVersion, artifacts: Artifacts) -> ServedVersion:
    adapter = artifacts.folder(version.path) if version.path is not None else None
    return ServedVersion(version.id, version.name, adapter)
