"""Canaries: a version tried on a share of the new chats, beside the deployed one.

A chat is given to the canary, or not, when it begins, and that is stored with it: nobody is moved
between versions in the middle of a chat, and every process and restart agrees. Knows nothing of deploying.
"""

import hashlib

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.db import audit
from storage.db.canary_table import Canary
from storage.db.tables import Chat, ModelVersion, Table, now

_canaries = Table.metadata.tables["canary"]
# Made once: every new chat asks.
_FIND_OPEN = sa.select(_canaries.c.id, _canaries.c.share).where(_canaries.c.ended_at.is_(None))


def open_canary(session: Session) -> Canary | None:
    """The one under way."""
    return session.exec(select(Canary).where(col(Canary.ended_at).is_(None))).first()


def choose_canary(session: Session, key: str) -> str | None:
    """The id of the canary under way if it gets this chat, or whatever else the key names."""
    session.flush()  # a plain statement does not see what the session has still to write
    canary = session.connection().execute(_FIND_OPEN).one_or_none()
    return canary.id if canary is not None and is_chosen(canary.id, key, canary.share) else None


def is_chosen(canary_id: str, key: str, share: float) -> bool:
    """Whether the first 64 bits of sha256("canary id:key"), as a fraction of 1, are below the share.

    So every canary splits anew, and a larger share only adds to those who were chosen.
    """
    digest = hashlib.sha256(f"{canary_id}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def end_canary(session: Session, canary: Canary, *, by: str, why: str) -> Canary:
    """Its chats are answered by the deployed version from now on."""
    canary.ended_at = now()
    canary.ending = why
    session.add(canary)
    audit.record(session, by, "end canary", session.get_one(ModelVersion, canary.version_id).name, why=why)
    session.flush()
    return canary


def count_chats(session: Session, canary: Canary) -> int:
    """The chats that were given to it and are still there."""
    given = (col(Chat.canary_id) == canary.id) & col(Chat.deleted_at).is_(None)
    return session.exec(select(func.count()).select_from(Chat).where(given)).one()
