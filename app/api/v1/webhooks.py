"""The webhook's deliveries and their outcomes. For admins."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.api.schemas import Cursor, Id, Limit, Page, page_of
from app.web.auth import Admin, ServicesHere
from storage.chats import webhook_outbox
from storage.db import audit

router = APIRouter(prefix="/webhook-deliveries", tags=["webhook"])


class DeliveryOut(BaseModel, from_attributes=True):
    id: str = Field(description="What the receiver gets as `webhook-id`.")
    event_id: int | None = Field(description="The id of the vote event that it reports, if it reports one.")
    event: str = Field(
        description="vote.cast, vote.changed or vote.cleared; version.rolled_back, version.promoted or "
        "canary.ended."
    )
    attempts: int
    next_attempt_at: datetime
    delivered_at: datetime | None = Field(description="null until the receiver answered 2xx.")
    failed_at: datetime | None = Field(description="When it was given up.")
    last_error: str | None
    created_at: datetime


@router.get("")
def list_deliveries(
    _: Admin, services: ServicesHere, limit: Limit = 50, cursor: Cursor = None
) -> Page[DeliveryOut]:
    """The deliveries of the last month, newest first."""
    with services.database.read() as session:
        found = webhook_outbox.list_deliveries(session, limit=limit + 1, before=cursor)
    return page_of([DeliveryOut.model_validate(delivery) for delivery in found], limit)


@router.post("/{delivery_id}/retry", status_code=202)
def retry_delivery(delivery_id: Id, identity: Admin, services: ServicesHere) -> DeliveryOut:
    """Send a delivery again soon, even if it was given up; 409 if the receiver already accepted it."""
    with services.database.write() as session:
        delivery = webhook_outbox.retry_delivery(session, delivery_id)
        audit.record(session, identity.user_id, "retry webhook", delivery_id)
    return DeliveryOut.model_validate(delivery)
