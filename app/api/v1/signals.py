"""Implicit signals: applications say what a person did with a reply, which is not a vote."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.api.schemas import Id
from app.web.auth import CurrentUser, ServicesHere
from app.web.openapi_names import Body
from storage.chats.signals import record_signal
from storage.settings import SignalKind

router = APIRouter(tags=["votes"])


class NewSignal(Body):
    kind: SignalKind = Field(description="What was done with the reply: regenerated, edited or copied.")


class SignalOut(BaseModel):
    message_id: str
    kind: SignalKind


@router.post("/messages/{message_id}/signals", status_code=201)
def add_signal(message_id: Id, body: NewSignal, identity: CurrentUser, services: ServicesHere) -> SignalOut:
    """Note what was done with a reply that was given to you; the same once more changes nothing.

    `edited` means that its question was edited. Regenerating and editing over this API are noted anyway.
    """
    with services.database.write() as session:
        record_signal(session, user_id=identity.user_id, message_id=message_id, kind=body.kind)
    return SignalOut(message_id=message_id, kind=body.kind)
