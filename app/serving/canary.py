"""Serves the canary that the database names: the version that answers the chats assigned to it.

If it cannot be loaded, the deployed version answers those chats. The canary stays active in the database,
because another server may be able to serve it.
"""

import logging

from sqlmodel import Session

from app.serving.backend import ServedVersion
from app.serving.loaded_versions import Follower
from storage.db.tables import Canary, ModelVersion
from storage.registry import canaries, model_versions

log = logging.getLogger("thumbloop.serving")


class CanaryServing(Follower):
    """Its key is the canary's id: the same version may be tried again."""

    role = "tried as a canary"

    def answering(self, canary_id: str | None) -> ServedVersion | None:
        """The version for a chat assigned to this canary, while the canary is active and loaded."""
        if canary_id is None:
            return None
        self.follow()
        return self.version if self.serves(canary_id) else None

    def serves(self, canary_id: str) -> bool:
        """Whether this server answers the canary's chats with the canary's version."""
        return self.key == canary_id

    def start(self, id_or_name: str, *, share: float, by: str, why: str) -> Canary:
        """Load and try the version, then assign a share of the new chats to it.

        Raises ArtifactRefused, and as `canaries.start_canary` does.
        """
        self.versions.fetch_if_servable(id_or_name)
        with self.versions.lock:
            version = self.versions.load_if_servable(id_or_name)
            with self.versions.database.write() as session:
                canary = canaries.start_canary(session, version.id, share=share, by=by, why=why)
            self.follow()
        log.info("%s answers %g %% of new chats from now on.", version.name, 100 * share)
        return canary

    def end(self, *, by: str, why: str) -> tuple[ModelVersion, int]:
        """Give the canary's chats to the deployed version; returns the canary's version and their number.

        Raises Conflict if no canary is active.
        """
        with self.versions.database.write() as session:
            canary = canaries.end_canary(session, by=by, why=why)
            version = model_versions.get_version(session, canary.version_id)
            ended = version, canaries.count_chats(session, canary)
        self.follow()
        return ended

    def _named(self, session: Session) -> tuple[str | None, str | None]:
        canary = model_versions.open_canary(session)
        return (canary.id, canary.version_id) if canary is not None else (None, None)

    def _fallback(self) -> str:
        return "the deployed version answers its chats"

    def _change(self, key: str | None, version: ModelVersion | None) -> None:
        if self.version is not None:
            log.info("The canary of %s is over; the deployed version answers.", self.version.name)
        self.key = self.version = None
        super()._change(key, version)
