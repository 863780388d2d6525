"""Who did what to what: append-only."""

from typing import Any

from sqlmodel import Session, col, select

from storage.db.tables import AuditEvent


def record(session: Session, actor: str, action: str, target: str, **detail: Any) -> None:
    """Note an action in the transaction that carries it out, so that neither exists alone."""
    session.add(AuditEvent(actor=actor, action=action, target=target, detail=detail))


def list_events(session: Session, limit: int = 50) -> list[AuditEvent]:
    """The latest events, newest first."""
    return list(session.exec(select(AuditEvent).order_by(col(AuditEvent.id).desc()).limit(limit)))
