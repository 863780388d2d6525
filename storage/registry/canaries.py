"""Canaries: a version tried on a share of the new chats, while the deployed one answers the others.

A chat is given to the canary, or not, when it begins, and that is stored with it: nobody is moved
between versions in the middle of a chat, and every process and restart agrees.
"""

import hashlib
from dataclasses import dataclass

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.db import audit
from storage.db.tables import Canary, Chat, ModelVersion, Table
from storage.errors import Conflict, InvalidInput
from storage.registry.model_versions import (
    check_may_be_served,
    close_canary,
    deployed_version,
    find_deployed,
    get_version,
    lock_versions,
    make_ready,
    open_canary,
)

_canaries = Table.metadata.tables["canary"]
# Made once: every new chat asks.
_FIND_OPEN = sa.select(_canaries.c.id, _canaries.c.share).where(_canaries.c.ended_at.is_(None))


def start_canary(session: Session, id_or_name: str, *, share: float, by: str, why: str) -> Canary:
    """Give a version other than the deployed one a share of the chats that begin from now on.

    For the canary that is under way this changes the share; chats stay on their side. Raises NotFound,
    InvalidInput, and Conflict for a version that is deployed or may not be, and while another is tried.
    """
    if not 0 < share < 1:
        raise InvalidInput(f"share is {share!r}; it must be above 0 and below 1.", field="share")
    lock_versions(session)
    version = get_version(session, id_or_name)
    check_may_be_served(version)
    deployed = deployed_version(session)
    if deployed.id == version.id:
        raise Conflict(f"{version.name} is deployed; there is nothing to compare it with.", code="deployed")
    canary = open_canary(session)
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
    lock_versions(session)
    canary = open_canary(session)
    if canary is None:
        raise Conflict("No canary is under way.", code="no_canary")
    return close_canary(session, canary, by=by, why=why)


def choose_canary(session: Session, key: str) -> str | None:
    """The id of the canary under way if it gets the chat, or the group of chats, that the key names."""
    session.flush()  # a plain statement does not see what the session has still to write
    canary = session.connection().execute(_FIND_OPEN).one_or_none()
    return canary.id if canary is not None and is_chosen(canary.id, key, canary.share) else None


def is_chosen(canary_id: str, key: str, share: float) -> bool:
    """Whether the first 64 bits of sha256("canary id:key"), as a fraction of 1, are below the share.

    So every canary splits anew, and a larger share only adds to those who were chosen.
    """
    digest = hashlib.sha256(f"{canary_id}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def count_chats(session: Session, canary: Canary) -> int:
    """The chats that were given to it and are still there."""
    given = (col(Chat.canary_id) == canary.id) & col(Chat.deleted_at).is_(None)
    return session.exec(select(func.count()).select_from(Chat).where(given)).one()


def answering_version(session: Session, chat: Chat | None = None) -> ModelVersion:
    """The version that gives a chat its next reply; without a chat, the deployed one."""
    if chat is not None and chat.canary_id is not None:
        canary = open_canary(session)
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
    deployed, canary = find_deployed(session), open_canary(session)
    return Traffic(
        deployed_id=deployed.id if deployed is not None else None,
        canary_id=canary.version_id if canary is not None else None,
        canary_share=canary.share if canary is not None else 0.0,
    )
