"""Keeps the backend serving the version that the database marks as deployed, and the canary.

A version is loaded before requests reach it. If it cannot be loaded, one that works goes on replying.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from sqlmodel import Session

from app.serving.backend import Backend, Prompt, ServedVersion
from app.serving.canary import CanaryServing
from app.serving.loaded_versions import Follower, LoadedVersions, OnSwap
from app.serving.reply import ReplyStream, Sampling
from storage.db.database import Database
from storage.db.tables import ModelVersion
from storage.errors import Busy, Conflict, NotReady, StoreUnavailable
from storage.registry import model_versions
from storage.registry.artifacts import Artifacts

log = logging.getLogger("thumbloop.serving")

POLL_SECONDS = 1.0


class DeployedServing(Follower):
    """Its key is the version's id. If that cannot be loaded, the version served so far goes on."""

    role = "deployed"

    def forget(self) -> None:
        super().forget()
        self.previous: ModelVersion | None = None  # what rolling back would deploy

    def serve(self, key: str, served: ServedVersion) -> None:
        if self.key is not None and self.key != key:
            self._on_swap("done")
        super().serve(key, served)
        with self.versions.database.read() as session:
            try:
                self.previous = model_versions.roll_back_target(session)
            except Conflict:
                self.previous = None
        log.info("%s replies from now on.", served.name)

    def fall_back(self) -> None:
        """At start: serve the newest earlier deployment that loads, or else the base model."""
        with self.versions.database.read() as session:
            rows = model_versions.deployments(session, limit=100)
            ids = dict.fromkeys(row.version_id for row in rows)
            versions = [model_versions.get_version(session, version_id) for version_id in ids]
            base = model_versions.get_version(session, "v1")
        earlier = [one for one in versions if one.state == "ready" and one.id not in (self._refused, base.id)]
        if self._waiting is not None:  # for a server or the store, which would not have those either
            earlier = [one for one in earlier if self.versions.is_here(one)]
        for version in [*earlier, base]:
            try:
                self.version = self.versions.load(version)
                break
            except Exception as error:  # whatever happened, an earlier version may work
                if version is base:
                    raise
                log.error("%s, deployed before, cannot be served either: %s", version.name, error)
        self.key = version.id
        log.error("%s replies in place of the deployed version. Deploy one that works.", version.name)

    def load_previous(self, needed: Sequence[str]) -> None:
        """Load the rollback target, so that a rollback is instant, also after a restart."""
        previous = self.previous
        if previous is None or previous.id not in needed[: self.versions.most]:
            return
        if self.versions.is_loaded(previous.id):
            return
        try:
            self.versions.fetch(previous)
            self.versions.load(previous)
        except Busy:
            return  # the model server or the artifact store did not answer; try again
        except Exception as error:
            self.previous = None
            log.warning("%s, which rolling back would deploy, cannot be loaded: %s", previous.name, error)

    def _named(self, session: Session) -> tuple[str | None, str | None]:
        version_id = model_versions.deployed_id(session)
        return version_id, version_id

    def _fallback(self) -> str:
        return f"{self.version.name} keeps replying" if self.version else "an earlier version replies"


class Deployments:
    """Chooses the version of each reply, and deploys. A thread follows the database."""

    def __init__(
        self,
        database: Database,
        artifacts: Artifacts,
        backend: Backend,
        *,
        max_loaded_versions: int,
        on_swap: OnSwap = lambda _outcome: None,
    ) -> None:
        self._database = database
        self._backend = backend
        self._versions = LoadedVersions(database, artifacts, backend, max_loaded_versions)
        self._deployed = DeployedServing(self._versions, on_swap)
        self.canary = CanaryServing(self._versions)
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="deployments", daemon=True)

    def start(self) -> None:
        """Load the deployed version, or else the newest earlier one that loads, and follow the alias.

        The alias is not changed: an operator has to see what is wrong and decide. Raises NotReady if
        not even the base model replies.
        """
        if self._versions.refusal is None:
            self._begin()
        self._poller.start()

    def pause(self, why: Callable[[], Busy], unload: Callable[[], object]) -> None:
        """Refuse every load and reply with this error until `resume`, and unload the models.

        `unload` may take a while.
        """
        self._versions.refusal = why
        with self._versions.lock:
            self._deployed.forget()
            self.canary.forget()
            unload()

    def resume(self) -> None:
        """Load the versions to serve again. Raises as `start` does, and then goes on refusing."""
        with self._versions.lock:
            why, self._versions.refusal = self._versions.refusal, None
            try:
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
        if self._poller.is_alive():
            self._poller.join()

    def current(self, canary_id: str | None = None) -> ServedVersion:
        """The loaded version for a new reply: the deployed one, or the one that still works.

        A chat assigned to a canary gets the canary's version, while the canary is active and loaded.
        """
        self._versions.check()
        candidate = self.canary.answering(canary_id)
        if candidate is not None:
            return candidate
        self._follow_deployed()
        deployed = self._deployed.version
        if deployed is None:
            with self._versions.lock:  # it may be loaded again just now
                deployed = self._deployed.version
        if deployed is None:
            self._versions.check()
            raise NotReady("No model version is being served; see the server's log.")
        return deployed

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

        def attempt() -> tuple[ServedVersion, ReplyStream]:
            self._versions.check()
            version = self.current(canary_id) if version_id is None else self._load_named(version_id)
            self._versions.use(version.id)
            return version, self._backend.stream(version.id, messages, sampling, person=person)

        try:
            return attempt()
        except NotReady as error:
            if error.code != "not_loaded":
                raise
        return attempt()  # the slot was freed between choosing and using it

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """See `Backend.prompt`."""
        return self._backend.prompt(messages)

    def deploy(self, id_or_name: str, *, by: str, why: str) -> ModelVersion:
        """Load and try the version, then move the alias: a refused adapter changes nothing.

        Raises NotFound, Conflict (rejected or retired), ArtifactRefused.
        """
        self._versions.fetch_if_servable(id_or_name)
        with self._versions.lock:
            return self._move_alias(self._versions.load_if_servable(id_or_name).id, by=by, why=why)

    def roll_back(self, *, by: str, why: str) -> ModelVersion:
        """Deploy the previous version. Raises as `deploy` does.

        One that is still loaded replies whatever became of its files: people roll back when in need.
        """
        with self._database.read() as session:
            target = model_versions.roll_back_target(session)
        if not self._versions.is_loaded(target.id):
            self._versions.fetch(target)
        with self._versions.lock:
            with self._database.read() as session:
                target = model_versions.roll_back_target(session)
            if not self._versions.is_loaded(target.id):
                self._versions.load_if_servable(target.id)
            return self._move_alias(target.id, by=by, why=why, rolled_back=True)

    def deploy_if(
        self, version_id: str, move: Callable[[Session], ModelVersion | None]
    ) -> ModelVersion | None:
        """Load and try the version, then let `move` deploy it in a transaction, if it still wants to.

        Returns what `move` does: the deployed version, or None. Raises as `deploy` does.
        """
        self._versions.fetch_if_servable(version_id)
        with self._versions.lock:
            self._versions.load_if_servable(version_id)
            return self._move(move)

    def _move_alias(self, version_id: str, *, by: str, why: str, rolled_back: bool = False) -> ModelVersion:
        version = self._move(
            lambda session: model_versions.deploy_version(
                session, version_id, by=by, why=why, rolled_back=rolled_back
            )
        )
        assert version is not None
        return version

    def _move(self, move: Callable[[Session], ModelVersion | None]) -> ModelVersion | None:
        with self._database.write() as session:
            version = move(session)
        if version is not None:
            self._deployed.serve(version.id, self._versions.load(version))
            self._free_unused()
        return version

    def _load_named(self, version_id: str) -> ServedVersion:
        """The version, loaded if necessary in the slot of the least recently used one."""
        with self._database.read() as session:
            version = model_versions.get_version(session, version_id)
        if self._versions.is_loaded(version_id):  # does not wait for one that is being loaded
            return self._versions.served(version)
        try:
            self._versions.fetch(version)
        except StoreUnavailable as error:  # which says more than the person who asks needs to know
            log.warning("%s was asked for and cannot be fetched: %s", version.name, error)
            raise Busy(
                f"{version.name} cannot be fetched now. Try again in a moment, or ask for the deployed one."
            ) from error
        with self._versions.lock:
            if not self._versions.make_room(self._needed(), self._answering()):
                raise Busy(
                    f"Every slot belongs to a version that is needed or replying, so {version.name} has to "
                    f"wait. Try again in a moment, ask for the deployed version, or raise "
                    f"THUMBLOOP_MAX_LOADED_VERSIONS."
                )
            return self._versions.load(version)

    def _begin(self) -> None:
        self._follow_deployed(fetch=True)
        if self._deployed.version is None:
            self._deployed.fall_back()
        self.canary.follow(fetch=True)

    def _follow_deployed(self, *, fetch: bool = False) -> None:
        before = self._deployed.key
        self._deployed.follow(fetch=fetch)
        if self._deployed.key != before:
            self._free_unused()

    def _needed(self) -> list[str]:
        """Ids of the versions to keep loaded, most important first; the last is the rollback target."""
        previous = self._deployed.previous
        return [*self._answering(), *([previous.id] if previous is not None else [])]

    def _answering(self) -> list[str]:
        """Ids of the versions that new replies come from."""
        served = (self._deployed.version, self.canary.version)
        return [version.id for version in served if version is not None]

    def _free_unused(self) -> None:
        with self._versions.lock:
            self._versions.free(self._needed())

    def _poll(self) -> None:
        healthy = True
        while not self._stopping.wait(POLL_SECONDS):
            try:
                if self._versions.refusal is not None:
                    continue
                self._follow_deployed(fetch=True)
                self.canary.follow(fetch=True)
                self._versions.note_use()
                self._deployed.load_previous(self._needed())
                self._free_unused()
                healthy = True
            except Exception:
                if healthy:  # log an outage of the database once, not every second
                    log.exception("The deployed version cannot be looked up; trying again.")
                healthy = False
