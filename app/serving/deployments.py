"""Which version replies: the alias `deployed` and the canary of the database, made true in the backend.

Has the slot of a version built before requests go to it, and falls back to one that works. Knows no
tensors, and of a chat only which canary it was given to.
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
    """Follows the database, where the trainer's gate, the command line and other servers deploy too."""

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
        self._refused: str | None = None  # the deployed version that could not be built: told once
        self._waited_for: str | None = None  # the deployed version whose server did not answer: told once
        self.canary = CanaryServing(database, self._versions, self._building)
        self._before: ModelVersion | None = None  # what rolling back would deploy
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="deployments", daemon=True)

    def start(self) -> None:
        """Build the deployed version, or else the last one before it that can be, and watch the alias.

        The alias stays as it is: an operator has to see what is wrong and decide. Raises NotReady if
        not even the base model replies.
        """
        if self._versions.refusal is None:
            self._begin()
        self._watcher.start()

    def refuse(self, why: Callable[[], Busy]) -> None:
        """Load nothing and answer nobody, with that error, until `come_back`."""
        self._versions.refusal = why

    def make_way(self, why: Callable[[], Busy], free: Callable[[], object]) -> None:
        """As `refuse`; `free` then unloads every model, in its own time."""
        self.refuse(why)
        with self._building:
            self._serving = self._before = None
            self.canary.forget()
            free()

    def come_back(self) -> None:
        """Load what is to be served; raises as `start` does, and then goes on refusing."""
        with self._building:
            why, self._versions.refusal = self._versions.refusal, None
            try:
                self._refused = self._waited_for = None
                self._begin()
            except BaseException:
                self._versions.refusal = why
                raise

    def trouble(self) -> str | None:
        """Why nobody is answered now, as anybody may read it; None if all is well."""
        why = self._versions.refusal
        return why().message if why is not None else self._backend.trouble()

    def stop(self) -> None:
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def current(self, canary_id: str | None = None) -> ServedVersion:
        """The version for a new reply, its slot ready: the deployed one, or the one that still works.

        For a chat that was given to a canary, the canary, while that goes on and can be served.
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
        """A reply by the current version, or by the one that is named, not yet begun.

        Raises as `Backend.stream` does; for a version that has to be built first also ArtifactRefused, and
        Busy where no slot is free for it.
        """
        try:
            return self._stream(messages, sampling, person, canary_id, version_id)
        except NotReady as error:
            if error.code != "not_loaded":
                raise
        # The slot was freed between choosing and using it.
        return self._stream(messages, sampling, person, canary_id, version_id)

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """As `Backend.prompt`."""
        return self._backend.prompt(messages)

    def deploy(self, id_or_name: str, *, by: str, why: str) -> ModelVersion:
        """Build and try the version, then move the alias: a refused adapter changes nothing.

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
        """Deploy what answered before; loads nothing while its slot is there. Raises as `deploy` does."""
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
        """That version, its slot ready; one that is not loaded takes the slot of the least used."""
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
        """Serve what the database says, unless that is so already or was found impossible."""
        with self._database.read() as session:
            deployed_id = model_versions.deployed_id(session)
        if deployed_id is not None and deployed_id == (self._refused or self._serving_id()):
            return
        with self._building:
            with self._database.read() as session:  # whoever held the lock may have moved the alias
                deployed = model_versions.deployed_version(session)
            if deployed.id == self._refused:
                return
            if deployed.id == self._serving_id():
                self._refused = None  # the alias went elsewhere; should it come back, try again
                return
            try:
                self._versions.build(deployed)
            except Busy as error:  # a model server that does not answer refuses nothing: ask again
                if self._waited_for != deployed.id:
                    log.error("%s is deployed, but waits for the model server: %s", deployed.name, error)
                self._waited_for = deployed.id
            except Exception as error:  # whatever it is, the version that works has to go on working
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
                self._serving = self._versions.build(version)
            except Exception as error:  # whatever it is, an earlier one may do
                log.error("%s, deployed before, cannot be served either: %s", version.name, error)
            else:
                break
        else:
            version = base
            self._serving = self._versions.build(base)
        log.error("%s replies in place of the deployed version. Deploy one that works.", version.name)

    def _serve(self, version: ModelVersion) -> None:
        """New replies go to this version; those under way end on the one they began with."""
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
        """What has to stay loaded, as far as there may be so many: the last is there to be rolled back to."""
        return [*self._answering(), *([self._before.id] if self._before is not None else [])]

    def _answering(self) -> list[str]:
        """What chats get their next reply from."""
        return [version.id for version in (self._serving, self.canary.version) if version is not None]

    def _free_unused(self) -> None:
        with self._building:
            self._versions.free(self._needed())

    def _load_before(self) -> None:
        """What rolling back would deploy, so that it has to load nothing, after a restart too."""
        before = self._before
        if before is None or not self._versions.is_missing(before.id, self._needed()):
            return
        try:
            self._versions.build(before)
        except Busy:
            return  # a model server that does not answer; ask again
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
                if healthy:  # say an outage of the database once, not every second
                    log.exception("The deployed version cannot be looked up; trying again.")
                healthy = False
