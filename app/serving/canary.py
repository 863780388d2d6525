"""Serves the canary that the database names: the version that answers the chats assigned to it.

If it cannot be loaded, the deployed version answers those chats. That is logged once. The canary stays
active in the database, because another server may be able to serve it.
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
    """Polls the database, because the command line and other servers start and end canaries too."""

    def __init__(self, database: Database, versions: LoadedVersions, building: threading.RLock) -> None:
        """`building` is held while a version that must stay loaded is being loaded."""
        self._database = database
        self._versions = versions
        self._building = building
        self._tried: _Tried | None = None
        self._refused: str | None = None  # the canary that failed to load: logged once
        self._waited_for: str | None = None  # its model server did not answer: logged once

    @property
    def version(self) -> ServedVersion | None:
        """The canary's version, if it is loaded."""
        tried = self._tried
        return tried.version if tried is not None else None

    def answering(self, canary_id: str | None) -> ServedVersion | None:
        """The version for a chat assigned to this canary, while the canary is active and loaded."""
        if canary_id is None:
            return None
        self.follow()
        tried = self._tried
        return tried.version if tried is not None and tried.canary_id == canary_id else None

    def serves(self, canary_id: str) -> bool:
        """Whether this server answers the canary's chats with the canary's version."""
        return self._tried is not None and self._tried.canary_id == canary_id

    def start(self, id_or_name: str, *, share: float, by: str, why: str) -> Canary:
        """Load and try the version, then assign a share of the new chats to it.

        Raises ArtifactRefused, and as `canaries.start_canary` does.
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
        """Give the canary's chats to the deployed version; returns the canary's version and their number.

        Raises Conflict if no canary is active.
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
        """Note that its model was unloaded; `follow` loads it again."""
        self._tried = self._refused = None

    def follow(self) -> None:
        """Load the canary's version, unless it is loaded already or failed to load."""
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
        except Busy as error:  # the model server did not answer, which is no refusal: try again
            if self._waited_for != canary.id:
                log.error(
                    "%s is tried as a canary, but waits for the model server, so the deployed version "
                    "answers its chats: %s",
                    version.name,
                    error,
                )
            self._waited_for = canary.id
        except Exception as error:  # whatever happened, its chats must be answered
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
