"""Who answers which chat: the deployed version, and the canary that is tried beside it."""

from dataclasses import dataclass

from sqlmodel import Session

from storage.db import audit
from storage.db.canary_table import Canary
from storage.db.tables import Chat, ModelVersion
from storage.errors import Conflict, InvalidInput
from storage.registry import canaries
from storage.registry.model_versions import (
    check_may_be_served,
    deployed_version,
    find_deployed,
    get_version,
    make_ready,
    take_turn,
)


def start_canary(session: Session, id_or_name: str, *, share: float, by: str, why: str) -> Canary:
    """Give a share of the chats that begin from now on to a version beside the deployed one.

    For the canary that is under way this changes the share; who was given to it stays. Raises NotFound,
    InvalidInput, and Conflict for a version that is deployed or may not be, and while another is tried.
    """
    if not 0 < share < 1:
        raise InvalidInput(f"share is {share!r}; it must be above 0 and below 1.", field="share")
    take_turn(session)
    version = get_version(session, id_or_name)
    check_may_be_served(version)
    deployed = deployed_version(session)
    if deployed.id == version.id:
        raise Conflict(f"{version.name} is deployed; there is nothing to compare it with.", code="deployed")
    canary = canaries.open_canary(session)
    if canary is None:
        make_ready(session, version)
        canary = Canary(version_id=version.id, compared_with_id=deployed.id, share=share, by=by, why=why)
    elif canary.version_id == version.id:
        canary.share = share
    else:
        tried = get_version(session, canary.version_id).name
        raise Conflict(f"{tried} is being tried; deploy it or end its canary first.", code="canary_open")
    session.add(canary)
    audit.record(session, by, "canary", version.name, share=share, why=why)
    session.flush()
    return canary


def end_canary(session: Session, *, by: str, why: str) -> Canary:
    """End the canary that is under way; raises Conflict where none is."""
    take_turn(session)
    canary = canaries.open_canary(session)
    if canary is None:
        raise Conflict("No canary is under way.", code="no_canary")
    return canaries.end_canary(session, canary, by=by, why=why)


def answering_version(session: Session, chat: Chat | None = None) -> ModelVersion:
    """The version that a chat, or a new one that no canary is given, gets its next reply from."""
    if chat is not None and chat.canary_id is not None:
        canary = canaries.open_canary(session)
        if canary is not None and canary.id == chat.canary_id:
            return get_version(session, canary.version_id)
    return deployed_version(session)


@dataclass(frozen=True)
class Traffic:
    """Who answers new chats: the deployed version, but for the canary's share."""

    deployed_id: str | None
    canary_id: str | None
    canary_share: float

    def share_of(self, version_id: str) -> float:
        if version_id == self.canary_id:
            return self.canary_share
        return 1 - self.canary_share if version_id == self.deployed_id else 0.0


def traffic(session: Session) -> Traffic:
    deployed, canary = find_deployed(session), canaries.open_canary(session)
    return Traffic(
        deployed_id=deployed.id if deployed is not None else None,
        canary_id=canary.version_id if canary is not None else None,
        canary_share=canary.share if canary is not None else 0.0,
    )
