"""The audit log: who did what to what; append-only, but for old failed sign-ins, which strangers add."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.db.rows import count_changed, database_now
from storage.db.tables import AuditEvent, User

FAILED_SIGN_IN = "failed sign-in"
DEMONSTRATION = "simulate a month"  # the first event of a store whose people and votes are simulated
KEPT = timedelta(days=30)


def record(session: Session, actor: str, action: str, target: str, **detail: Any) -> None:
    """Record an action in the transaction that carries it out, so that neither exists alone.

    `actor` is a user's id, or a part of the program. A name would outlive the person's erasure.
    """
    session.add(AuditEvent(actor=actor, action=action, target=target, detail=detail))


@dataclass(frozen=True)
class Event:
    """An event, with the name of the account that acted, if it was one."""

    id: str
    at: datetime
    actor: str
    name: str | None
    action: str
    target: str
    detail: dict[str, Any]


def list_events(
    session: Session,
    *,
    actor: str | None = None,
    action: str | None = None,
    target: str | None = None,
    limit: int,
    before: str | None = None,
) -> list[Event]:
    """The newest events that match; `before` is the id of the last one on the previous page."""
    columns = [getattr(AuditEvent, name) for name in ("id", "at", "actor", "action", "target", "detail")]
    query = sa.select(*columns, col(User.name)).outerjoin(User, col(User.id) == AuditEvent.actor)
    for name, wanted in (("actor", actor), ("action", action), ("target", target)):
        if wanted is not None:
            query = query.where(getattr(AuditEvent, name) == wanted)
    if before is not None:
        query = query.where(col(AuditEvent.id) < before)
    rows = session.execute(query.order_by(col(AuditEvent.id).desc()).limit(limit))
    return [Event(**row._mapping) for row in rows]


def list_actions(session: Session) -> list[str]:
    """The names of the actions that there are events of."""
    return list(session.exec(select(AuditEvent.action).distinct().order_by(AuditEvent.action)))


def is_demonstration(session: Session) -> bool:
    """Whether the store was filled by `thumbloop demo`; so says every copy of it."""
    found = select(AuditEvent.id).where(AuditEvent.action == DEMONSTRATION).limit(1)
    return session.exec(found).first() is not None


def remove_failed_sign_ins(session: Session) -> int:
    """Delete failed sign-ins of over 30 days ago; returns how many."""
    old = col(AuditEvent.at) < database_now(session) - KEPT
    failed = col(AuditEvent.action) == FAILED_SIGN_IN
    return count_changed(session, sa.delete(AuditEvent).where(failed, old))
