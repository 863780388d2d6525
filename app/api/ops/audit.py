"""The audit log: who did what to what. For admins; nothing changes it."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.api.schemas import Cursor, Limit, Page, page_of
from app.web.auth import Admin, ServicesHere
from storage.db.audit import list_events

router = APIRouter(prefix="/audit", tags=["users"])


class AuditEventOut(BaseModel, from_attributes=True):
    id: str
    at: datetime
    actor: str = Field(description="A person's id, or a part of the program: command line, gate, monitor …")
    name: str | None = Field(description="The name of the actor's account; others have none.")
    action: str
    target: str = Field(description="What it was done to: an id, or a version's name.")
    detail: dict[str, Any]


@router.get("")
def list_audit_events(
    _: Admin,
    services: ServicesHere,
    actor: Annotated[str | None, Query(description="Only what this id or part did.")] = None,
    action: Annotated[str | None, Query(description="Only this action, such as deploy.")] = None,
    target: Annotated[str | None, Query(description="Only what was done to this.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[AuditEventOut]:
    """The events, newest first."""
    with services.database.read() as session:
        found = list_events(
            session, actor=actor, action=action, target=target, limit=limit + 1, before=cursor
        )
    return page_of([AuditEventOut.model_validate(one) for one in found], limit)
