"""The audit log: who did what to what; append-only."""

from typing import Any

from sqlmodel import Session

from storage.db.tables import AuditEvent


def record(session: Session, actor: str, action: str, target: str, **detail: Any) -> None:
    """Record an action in the transaction that carries it out, so that neither exists alone."""
    session.add(AuditEvent(actor=actor, action=action, target=target, detail=detail))
