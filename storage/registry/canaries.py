"""Canaries: a version is tried on a share of the new chats, while the deployed one answers the others.

A chat is assigned when it begins, and the assignment is stored with it. So no chat changes versions in the
middle, and all processes agree, also after a restart.
"""

import hashlib
from dataclasses import dataclass

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.db import audit
from storage.db.rows import execute_core
from storage.db.tables import Canary, Chat, ModelVersion, Table
from storage.errors import Conflict, InvalidInput
from storage.registry.model_versions import (
    check_may_be_served,
    close_canary,
    deployed_id,
    deployed_version,
    get_version,
    lock_versions,
    make_ready,
    open_canary,
)

_canaries = Table.metadata.tables["canary"]
# Built once: every new chat runs it.
_FIND_OPEN = sa.select(*_canaries.c["id", "share"]).where(_canaries.c.ended_at.is_(None))


def start_canary(session: Session, id_or_name: str, *, share: float, by: str, why: str) -> Canary:
    """Give a version other than the deployed one a share of the chats that begin from now on.

    For the current canary, changes the share; existing chats stay where they are. Raises NotFound,
    InvalidInput, or Conflict if the version is deployed, rejected or retired, or another canary is open.
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
        make_ready(version)
        canary = Canary(version_id=version.id, compared_with_id=deployed.id, share=share, by=by, why=why)
        session.add(canary)
    elif canary.version_id == version.id:
        canary.share = share
    else:
        tried = get_version(session, canary.version_id).name
        raise Conflict(f"{tried} is being tried; deploy it or end its canary first.", code="canary_open")
    audit.record(session, by, "canary", version.name, share=share, why=why)
    session.flush()
    return canary


def end_canary(session: Session, *, by: str, why: str) -> Canary:
    """End the current canary; raises Conflict if there is none."""
    lock_versions(session)
    canary = open_canary(session)
    if canary is None:
        raise Conflict("No canary is under way.", code="no_canary")
    return close_canary(session, canary, by=by, why=why)


def choose_canary(session: Session, key: str) -> str | None:
    """The id of the current canary if it gets the chat, or group of chats, with this key; else None."""
    canary = execute_core(session, _FIND_OPEN).one_or_none()
    return canary.id if canary is not None and is_chosen(canary.id, key, canary.share) else None


def is_chosen(canary_id: str, key: str, share: float) -> bool:
    """Whether the first 64 bits of sha256("canary id:key"), as a fraction of 1, are below the share.

    So each canary has its own split, and raising the share only adds to the chosen keys.
    """
    digest = hashlib.sha256(f"{canary_id}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def count_chats(session: Session, canary: Canary) -> int:
    """The number of chats assigned to it that are not deleted."""
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
    """Which versions answer new chats: the canary its share, the deployed version the rest."""

    deployed_id: str | None
    canary_id: str | None
    canary_share: float

    def share_of(self, version_id: str) -> float:
        if version_id == self.canary_id:
            return self.canary_share
        return 1 - self.canary_share if version_id == self.deployed_id else 0.0


def traffic(session: Session) -> Traffic:
    canary = open_canary(session)
    version, share = (canary.version_id, canary.share) if canary is not None else (None, 0.0)
    return Traffic(deployed_id(session), version, share)
