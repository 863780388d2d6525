"""The guard: its limits, what it set aside in the newest run, and releases. For admins."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.api.schemas import Cursor, Id, Limit, Page, page_of
from app.services import Services
from app.web.auth import Admin, ServicesHere
from app.web.openapi_names import Body
from storage.privacy import releases
from storage.registry.set_aside import (
    count_set_aside,
    list_set_aside,
    newest_influence,
    people_set_aside,
)
from storage.settings.guard import GuardLimits, describe_guard, guard_limits

router = APIRouter(prefix="/guard", tags=["guard"])


class PersonOut(BaseModel, from_attributes=True):
    user_id: str
    votes: int = Field(description="How many of their votes the newest run set aside.")
    reasons: dict[str, int]
    phrases: list[str] = Field(description="The phrases that they push.")


class ReleaseOut(BaseModel, from_attributes=True):
    id: str
    user_id: str
    message_id: str | None = Field(description="null: all votes of this person.")
    by: str
    created_at: datetime
    ended_at: datetime | None


class Influence(BaseModel):
    user_id: str
    up: float = Field(description="Their share of the weight of the thumbs up in the newest training.")
    down: float
    rows: int


class GuardOut(BaseModel):
    description: str = Field(description="The limits in words, and where they come from.")
    limits: GuardLimits = Field(description="This server's limits; 0 and a share of 1 limit nobody.")
    set_aside: int = Field(description="Votes that the newest run set aside; /guard/votes lists them.")
    people: list[PersonOut] = Field(description="Whose votes these are, at most 100, the most first.")
    influence: list[Influence] = Field(description="The most active people of the newest training.")
    releases: list[ReleaseOut]


class SetAsideOut(BaseModel, from_attributes=True):
    id: str
    run_id: str
    message_id: str
    user_id: str
    reason: str
    detail: str = Field(description="The phrase that is pushed, if that is the reason.")


class NewRelease(Body, json_schema_extra={"examples": [{"user_id": "01JZ0000000000000000000000"}]}):
    user_id: str = Field(description="Whose votes the guard lets pass; an application: with its end users.")
    message_id: str | None = Field(None, description="Only the vote on this reply.")
    reason: str = Field("", max_length=1000, description="For the audit log.")


@router.get("")
def show_guard(_: Admin, services: ServicesHere) -> GuardOut:
    """The limits, what the newest run set aside by person, the most active people, and the releases."""
    return current_guard(services)


@router.get("/votes")
def list_votes_set_aside(
    _: Admin, services: ServicesHere, limit: Limit = 50, cursor: Cursor = None
) -> Page[SetAsideOut]:
    """The votes that the newest run set aside, each with its reason."""
    with services.database.read() as session:
        found = list_set_aside(session, limit=limit + 1, before=cursor)
    return page_of([SetAsideOut.model_validate(one) for one in found], limit)


@router.post("/releases", status_code=201)
def release(body: NewRelease, identity: Admin, services: ServicesHere) -> ReleaseOut:
    """Let a person's votes pass the guard, from the next run on. Repeating it changes nothing."""
    with services.database.write() as session:
        found = releases.release(
            session, body.user_id, body.message_id, by=identity.user_id, reason=body.reason
        )
        return ReleaseOut.model_validate(found)


@router.delete("/releases/{release_id}")
def withdraw_release(release_id: Id, identity: Admin, services: ServicesHere) -> ReleaseOut:
    """End a release: the guard's limits apply again, from the next run on. 409 if it has ended."""
    with services.database.write() as session:
        return ReleaseOut.model_validate(releases.withdraw(session, release_id, by=identity.user_id))


def current_guard(services: Services) -> GuardOut:
    with services.database.read() as session:
        return GuardOut(
            description=describe_guard(services.settings),
            limits=guard_limits(services.settings),
            set_aside=count_set_aside(session),
            people=[PersonOut.model_validate(one) for one in people_set_aside(session)],
            influence=[Influence(**one) for one in newest_influence(session)],
            releases=[ReleaseOut.model_validate(one) for one in releases.open_releases(session)],
        )
