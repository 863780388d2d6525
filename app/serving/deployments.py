"""Keeps the backend serving the version that the database marks as deployed, and the canary.

A version is loaded before requests reach it. If it cannot be loaded, one that works goes on replying.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from app.serving.backend import Backend, Prompt, ReplyStream, Sampling, ServedVersion
from app.serving.canary import CanaryServing
from app.serving.loaded_versions import LoadedVersions
from storage.db.database import Database
from storage.db.tables import ModelVersion
from storage.errors import Busy, Conflict, NotReady, ThumbloopError
from storage.registry import model_versions
from storage.registry.artifacts import Artifacts

log = logging.getLogger("thumbloop.serving")

POLL_SECONDS = 1.0


class Deployments:
    """Polls the database, because the trainer's gate, the command line and other servers deploy too."""

    def __init__(
        self,
        database: Database,
        artifacts: Artifacts,
        backend: Backend,
        *,
        max_loaded_versions: int,
        on_swap: Callable[[str], None] = lambda _outcome: None,
    ) -> None:
        self._on_swap = on_swap  # called with "done" or "refused"
        self._database = database
        self._backend = backend
        self._versions = LoadedVersions(artifacts, backend, max_loaded_versions)
        self._building = threading.RLock()
        self._serving: ServedVersion | None = None
        self._refused: str | None = None  # the deployed version that failed to load: logged once
        self._waited_for: str | None = None  # deployed, but its model server did not answer: logged once
        self.canary = CanaryServing(database, self._versions, self._building)
        self._before: ModelVersion | None = None  # what rolling back would deploy
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="deployments", daemon=True)

    def start(self) -> None:
        """Load the deployed version, or else the newest earlier one that loads, and watch the alias.

        The alias is not changed: an operator has to see what is wrong and decide. Raises NotReady if
        not even the base model replies.
        """
        if self._versions.refusal is None:
            self._begin()
        self._watcher.start()

    def refuse(self, why: Callable[[], Busy]) -> None:
        """Refuse every load and every reply with this error, until `come_back`."""
        self._versions.refusal = why

    def make_way(self, why: Callable[[], Busy], free: Callable[[], object]) -> None:
        """Like `refuse`; then call `free`, which unloads every model and may take a while."""
        self.refuse(why)
        with self._building:
            self._serving = self._before = None
            self.canary.forget()
            free()

    def come_back(self) -> None:
        """Load the versions to serve again. Raises as `start` does, and then goes on refusing."""
        with self._building:
            why, self._versions.refusal = self._versions.refusal, None
            try:
                self._refused = self._waited_for = None
                self._begin()
            except BaseException:
                self._versions.refusal = why
                raise

    def trouble(self) -> str | None:
        """Why no reply is possible now, in words that anyone may read; None if all is well."""
        why = self._versions.refusal
        return why().message if why is not None else self._backend.trouble()

    def stop(self) -> None:
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def current(self, canary_id: str | None = None) -> ServedVersion:
        """The loaded version for a new reply: the deployed one, or the one that still works.

        A chat assigned to a canary gets the canary's version, while the canary is active and loaded.
        """
        self._versions.check()
        tried = self.canary.answering(canary_id)
        if tried is not None:
            return tried
        self._follow()
        if self._serving is None:
            self._versions.check()
            raise NotReady("No model version is being served; see the server's log.")
        return self._serving

    def stream(
        self,
        messages: Sequence[Mapping[str, str]] | Prompt,
        sampling: Sampling,
        *,
        person: str = "",
        canary_id: str | None = None,
        version_id: str | None = None,
    ) -> tuple[ServedVersion, ReplyStream]:
        """A reply, not yet started, by the current version or by `version_id`.

        Raises as `Backend.stream` does. If the version must be loaded first, also raises ArtifactRefused,
        and Busy if no slot is free for it.
        """
        try:
            return self._stream(messages, sampling, person, canary_id, version_id)
        except NotReady as error:
            if error.code != "not_loaded":
                raise
        # The slot was freed between choosing and using it.
        return self._stream(messages, sampling, person, canary_id, version_id)

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """See `Backend.prompt`."""
        return self._backend.prompt(messages)

    def deploy(self, id_or_name: str, *, by: str, why: str) -> ModelVersion:
        """Load and try the version, then move the alias: a refused adapter changes nothing.

        Raises NotFound, Conflict (rejected or retired), ArtifactRefused.
        """
        with self._building:
            with self._database.read() as session:
                version = model_versions.get_version(session, id_or_name)
            if version.state in ("candidate", "ready"):  # others are refused below
                self._versions.build(version)
            with self._database.write() as session:
                version = model_versions.deploy_version(session, version.id, by=by, why=why)
            self._serve(version)
        return version

    def roll_back(self, *, by: str, why: str) -> ModelVersion:
        """Deploy the previous version, usually still loaded. Raises as `deploy` does."""
        with self._building:
            with self._database.read() as session:
                target = model_versions.roll_back_target(session)
            return self.deploy(target.id, by=by, why=why)

    def _stream(
        self,
        messages: Sequence[Mapping[str, str]] | Prompt,
        sampling: Sampling,
        person: str,
        canary_id: str | None,
        version_id: str | None,
    ) -> tuple[ServedVersion, ReplyStream]:
        self._versions.check()
        version = self.current(canary_id) if version_id is None else self._named(version_id)
        self._versions.use(version.id)
        return version, self._backend.stream(version.id, messages, sampling, person=person)

    def _named(self, version_id: str) -> ServedVersion:
        """The version, loaded if necessary in the slot of the least recently used one."""
        with self._database.read() as session:
            version = model_versions.get_version(session, version_id)
        found = self._versions.find(version)
        if found is not None:
            return found
        with self._building:
            if not self._versions.make_room(self._needed(), self._answering()):
                raise Busy(
                    f"Every slot belongs to a version that is needed or replying, so {version.name} has to "
                    f"wait. Try again in a moment, ask for the deployed version, or raise "
                    f"THUMBLOOP_MAX_LOADED_VERSIONS."
                )
            return self._versions.build(version)

    def _begin(self) -> None:
        self._follow()
        if self._serving is None:
            self._fall_back()
        self.canary.follow()

    def _follow(self) -> None:
        """Serve the version that the database names, unless it is served already or failed to load."""
        with self._database.read() as session:
            deployed_id = model_versions.deployed_id(session)
        if deployed_id is not None and deployed_id == (self._refused or self._serving_id()):
            return
        with self._building:
            with self._database.read() as session:  # the last holder of the lock may have moved the alias
                deployed = model_versions.deployed_version(session)
            if deployed.id == self._refused:
                return
            if deployed.id == self._serving_id():
                self._refused = None  # the alias moved on; if it returns to the failed version, try again
                return
            try:
                self._versions.build(deployed)
            except Busy as error:  # the model server did not answer, which is no refusal: try again
                if self._waited_for != deployed.id:
                    log.error("%s is deployed, but waits for the model server: %s", deployed.name, error)
                self._waited_for = deployed.id
            except Exception as error:  # whatever happened, the working version must keep replying
                self._refused = deployed.id
                self._on_swap("refused")
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

    def _serving_id(self) -> str | None:
        return None if self._serving is None else self._serving.id

    def _fall_back(self) -> None:
        """At start: serve the newest earlier deployment that loads."""
        with self._database.read() as session:
            rows = model_versions.deployments(session, limit=100)
            ids = dict.fromkeys(row.version_id for row in rows)
            versions = [model_versions.get_version(session, version_id) for version_id in ids]
            base = model_versions.get_version(session, "v1")
        for version in versions:
            if version.id in (self._refused, base.id) or version.state != "ready":
                continue
            try:
                self._serving = self._versions.build(version)
            except Exception as error:  # whatever happened, an earlier version may work
                log.error("%s, deployed before, cannot be served either: %s", version.name, error)
            else:
                break
        else:
            version = base
            self._serving = self._versions.build(base)
        log.error("%s replies in place of the deployed version. Deploy one that works.", version.name)

    def _serve(self, version: ModelVersion) -> None:
        """Send new replies to this version; replies under way finish on the one they began with."""
        if self._serving is not None and self._serving.id != version.id:
            self._on_swap("done")
        self._serving = self._versions.build(version)
        self._refused = self._waited_for = None
        with self._database.read() as session:
            try:
                self._before = model_versions.roll_back_target(session)
            except Conflict:
                self._before = None
        log.info("%s replies from now on.", version.name)
        self._free_unused()

    def _needed(self) -> list[str]:
        """Ids of the versions to keep loaded, most important first; the last is the rollback target."""
        return [*self._answering(), *([self._before.id] if self._before is not None else [])]

    def _answering(self) -> list[str]:
        """Ids of the versions that new replies come from."""
        return [version.id for version in (self._serving, self.canary.version) if version is not None]

    def _free_unused(self) -> None:
        with self._building:
            self._versions.free(self._needed())

    def _load_before(self) -> None:
        """Load the rollback target, so that a rollback is instant, also after a restart."""
        before = self._before
        if before is None or not self._versions.is_missing(before.id, self._needed()):
            return
        try:
            self._versions.build(before)
        except Busy:
            return  # the model server did not answer; try again
        except Exception as error:
            self._before = None
            log.warning("%s, which rolling back would deploy, cannot be loaded: %s", before.name, error)

    def _watch(self) -> None:
        healthy = True
        while not self._stopping.wait(POLL_SECONDS):
            try:
                if self._versions.refusal is not None:
                    continue
                self._follow()
                self.canary.follow()
                self._load_before()
                self._free_unused()
                healthy = True
            except Exception:
                if healthy:  # log an outage of the database once, not every second
                    log.exception("The deployed version cannot be looked up; trying again.")
                healthy = False
