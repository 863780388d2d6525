"""The canary of the database, made true in the backend: the version that answers the chats given to it.

Where it cannot be served, the deployed version answers them; it is said once, and the canary goes on in
the database, because another server may well serve it.
"""

import logging
import threading
from dataclasses import dataclass

from app.serving.backend import ServedVersion
from app.serving.loaded_versions import LoadedVersions
from storage.db.database import Database
from storage.db.tables import Canary, ModelVersion
from storage.errors import Busy, ThumbloopError
from storage.registry import canaries, model_versions

log = logging.getLogger("thumbloop.serving")


@dataclass(frozen=True)
class _Tried:
    canary_id: str
    version: ServedVersion


class CanaryServing:
    """Follows the database, where the command line and other servers start and end canaries, too."""

    def __init__(self, database: Database, versions: LoadedVersions, building: threading.RLock) -> None:
        """`building` is held while a version is built that is to stay."""
        self._database = database
        self._versions = versions
        self._building = building
        self._tried: _Tried | None = None
        self._refused: str | None = None  # the canary that could not be served: told once
        self._waited_for: str | None = None  # the canary whose server did not answer: told once

    @property
    def version(self) -> ServedVersion | None:
        """The version that is tried, its slot ready."""
        tried = self._tried
        return tried.version if tried is not None else None

    def answering(self, canary_id: str | None) -> ServedVersion | None:
        """The version for a chat that was given to this canary, while it goes on and can be served."""
        if canary_id is None:
            return None
        self.follow()
        tried = self._tried
        return tried.version if tried is not None and tried.canary_id == canary_id else None

    def serves(self, canary_id: str) -> bool:
        """Whether this server answers the canary's chats by its version."""
        return self._tried is not None and self._tried.canary_id == canary_id

    def start(self, id_or_name: str, *, share: float, by: str, why: str) -> Canary:
        """Build and try the version, then give it a share of the chats that begin from now on.

        Raises as `canaries.start_canary` does, and ArtifactRefused.
        """
        with self._building:
            with self._database.read() as session:
                version = model_versions.get_version(session, id_or_name)
            if version.state in ("candidate", "ready"):  # others are refused below
                self._versions.build(version)
            with self._database.write() as session:
                canary = canaries.start_canary(session, version.id, share=share, by=by, why=why)
            self.follow()
        return canary

    def end(self, *, by: str, why: str) -> tuple[ModelVersion, int]:
        """Its chats are the deployed version's from now on; returns what was tried, and how many they are.

        Raises Conflict where no canary is under way.
        """
        with self._database.write() as session:
            canary = canaries.end_canary(session, by=by, why=why)
            ended = (
                model_versions.get_version(session, canary.version_id),
                canaries.count_chats(session, canary),
            )
        self.follow()
        return ended

    def forget(self) -> None:
        """Its model is gone; `follow` has it loaded again."""
        self._tried = self._refused = None

    def follow(self) -> None:
        """Have the version ready that is to be tried, unless that is so already or was found impossible."""
        if self._is_settled(self._wanted()):
            return
        with self._building:
            wanted = self._wanted()
            if self._is_settled(wanted):
                return
            if self._tried is not None:
                log.info("The canary of %s is over; the deployed version answers.", self._tried.version.name)
                self._tried = None
            if wanted is not None:
                self._try(*wanted)

    def _try(self, canary: Canary, version: ModelVersion) -> None:
        try:
            self._tried = _Tried(canary.id, self._versions.build(version))
        except Busy as error:  # a model server that does not answer refuses nothing: ask again
            if self._waited_for != canary.id:
                log.error(
                    "%s is tried as a canary, but waits for the model server, so the deployed version "
                    "answers its chats: %s",
                    version.name,
                    error,
                )
            self._waited_for = canary.id
        except Exception as error:  # whatever it is, its chats have to be answered
            self._refused = canary.id
            log.error(
                "%s is tried as a canary but cannot be served, so the deployed version answers its chats: %s",
                version.name,
                error,
                exc_info=not isinstance(error, ThumbloopError),
            )
        else:
            log.info("%s answers %g %% of new chats from now on.", version.name, 100 * canary.share)

    def _wanted(self) -> tuple[Canary, ModelVersion] | None:
        with self._database.read() as session:
            canary = model_versions.open_canary(session)
            if canary is None:
                return None
            return canary, model_versions.get_version(session, canary.version_id)

    def _is_settled(self, wanted: tuple[Canary, ModelVersion] | None) -> bool:
        if wanted is None:
            return self._tried is None
        canary_id = wanted[0].id
        return canary_id == self._refused or self.serves(canary_id)
