"""The audit log: who did what to what; append-only, but for old failed sign-ins, which strangers add."""

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from storage.db.rows import count_changed, database_now
from storage.db.tables import AuditEvent

FAILED_SIGN_IN = "failed sign-in"
KEPT = timedelta(days=30)


def record(session: Session, actor: str, action: str, target: str, **detail: Any) -> None:
    """Record an action in the transaction that carries it out, so that neither exists alone.

    `actor` is a user's id, or a part of the program. A name would outlive the person's erasure.
    """
    session.add(AuditEvent(actor=actor, action=action, target=target, detail=detail))


def remove_failed_sign_ins(session: Session) -> int:
    """Delete failed sign-ins of over 30 days ago; returns how many."""
    old = col(AuditEvent.at) < database_now(session) - KEPT
    failed = col(AuditEvent.action) == FAILED_SIGN_IN
    return count_changed(session, sa.delete(AuditEvent).where(failed, old))
