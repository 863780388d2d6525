"""Votes with their replies: list, search, conversation, exclusion and second ratings. For admins."""

from datetime import datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, StrictBool

from app.api.schemas import Cursor, Id, Limit, Page
from app.services import Services
from app.web.auth import Admin, ServicesHere
from app.web.openapi_names import Body
from storage.db import audit
from storage.examples.filters import resolve
from storage.files.installation_key import load_secret
from storage.privacy.quarantine import set_excluded, set_quarantines
from storage.review import second_ratings
from storage.review.voted_replies import Use, VoteFilter, conversation, get_voted_reply, list_votes
from trainer.taste.review_queue import Queue, review_queue
from trainer.taste.themes import disliked_themes

router = APIRouter(prefix="/votes", tags=["feedback"])
MOST_AT_ONCE = 200
EXAMPLES = 3  # of a theme


class VotesQuery(VoteFilter):
    limit: Limit = 50
    cursor: Cursor = None


class ReviewOut(BaseModel, from_attributes=True):
    by: str = Field(description="The id of the admin.")
    label: bool | None
    note: str | None
    correction: str | None = Field(None, description="What they say that it should have said.")
    updated_at: datetime


class VotedReplyOut(BaseModel, from_attributes=True):
    id: str
    message_id: str
    chat_id: str
    user_id: str
    person: str | None = Field(description="The name of their account; others have none.")
    label: bool = Field(description="true: up, false: down.")
    tags: list[str]
    comment: str | None
    correction: str | None
    voted_at: datetime
    source: str
    model_version: str | None
    question: str = Field(description="The message that the reply answers.")
    reply: str
    use: Use = Field(description="Whether training may use the vote (counts), or what keeps it from that.")
    set_aside: str | None = Field(description="Why the guard set it aside in the newest run.")
    learned_by: list[str] = Field(description="The versions whose runs learned from it.")
    reviews: list[ReviewOut]


class Turn(BaseModel, from_attributes=True):
    id: str
    role: str
    content: str


class Conversation(VotedReplyOut):
    messages: list[Turn] = Field(description="The messages up to the reply.")


class Exclusion(Body, json_schema_extra={"examples": [{"vote_ids": [], "excluded": True}]}):
    vote_ids: list[str] = Field(max_length=MOST_AT_ONCE)
    excluded: StrictBool = Field(description="true: keep them from training. false: let them train again.")
    reason: str = Field("", max_length=1000, description="For the audit log.")


class Excluded(BaseModel):
    changed: int = Field(description="How many votes were not so before.")


class Quarantines(Body, json_schema_extra={"examples": [{"vote_ids": [], "quarantined": True}]}):
    vote_ids: list[str] = Field([], max_length=MOST_AT_ONCE, description="Votes of these people.")
    user_ids: list[str] = Field([], max_length=MOST_AT_ONCE, description="And these people.")
    quarantined: StrictBool = Field(description="true: quarantine. false: release.")
    reason: str = Field("", max_length=1000, description="For the audit log.")


class Quarantined(BaseModel):
    changed: list[str] = Field(description="The ids of the people who were not so before.")


class ThemeOut(BaseModel):
    words: list[str] = Field(description="What tells its votes from the others.")
    votes: int
    examples: list[VotedReplyOut] = Field(description="The most typical ones.")


class Themes(BaseModel):
    votes: int = Field(description="Thumbs down that were read, the newest 2,000 at most.")
    items: list[ThemeOut] = Field(description="The largest first; none where there is too little to group.")


class NewReview(Body):
    label: StrictBool | None = Field(None, description="true: up, false: down.")
    note: str | None = Field(None, max_length=4000)
    correction: str | None = Field(None, max_length=32_000, description="What it should have said.")


class NewReviews(Body, json_schema_extra={"examples": [{"vote_ids": [], "label": False}]}):
    vote_ids: list[str] = Field(max_length=MOST_AT_ONCE)
    label: StrictBool | None = Field(None, description="true: up, false: down.")
    note: str | None = Field(None, max_length=4000)


class Reviewed(BaseModel):
    changed: list[str] = Field(description="The ids of the votes whose second rating changed.")


@router.get("")
def list_voted_replies(
    _: Admin, services: ServicesHere, query: Annotated[VotesQuery, Query()]
) -> Page[VotedReplyOut]:
    """All votes with their replies, newest first, whether or not training may use them.

    In a large store a page with filters may have few items, or none: go on while there is a `next`.
    """
    given = query.model_dump(include=set(VoteFilter.model_fields), exclude_unset=True)
    with services.database.read() as session:
        wanted = resolve(session, VoteFilter(**given), salt=load_secret(services.settings.data_dir))
        found = list_votes(session, wanted, limit=query.limit, before=query.cursor)
        return Page(items=[VotedReplyOut.model_validate(one) for one in found.votes], next=found.next)


@router.get("/queue")
def show_review_queue(
    queue: Queue, identity: Admin, services: ServicesHere, limit: Limit = 50
) -> Page[VotedReplyOut]:
    """Votes that you should rate a second time, the most telling first; a vote leaves once you have.

    downs: newest thumbs down. contradictory: raters disagree on the same text. unsure: the words say neither.
    random: for an agreement that stands for all votes.
    """
    with services.database.read() as session:
        found = review_queue(session, queue, by=identity.user_id)[:limit]
    return Page(items=[VotedReplyOut.model_validate(one) for one in found], next=None)


@router.get("/themes")
def show_themes(_: Admin, services: ServicesHere) -> Themes:
    """What the newest thumbs down are about: groups of similar questions and comments."""
    return current_themes(services)


def current_themes(services: Services) -> Themes:
    with services.database.read() as session:
        found, themes = disliked_themes(session)
    return Themes(
        votes=len(found),
        items=[
            ThemeOut(
                words=theme.words,
                votes=len(theme.places),
                examples=[VotedReplyOut.model_validate(found[place]) for place in theme.places[:EXAMPLES]],
            )
            for theme in themes
        ],
    )


@router.get("/agreement")
def show_agreement(_: Admin, services: ServicesHere) -> second_ratings.Agreement:
    """How far second ratings agree with the votes."""
    with services.database.read() as session:
        return second_ratings.agreement(session)


@router.put("/exclusion")
def exclude(body: Exclusion, identity: Admin, services: ServicesHere) -> Excluded:
    """Keep votes from training, or let them train again; all of them or, on an error, none."""
    with services.database.write() as session:
        changed = set_excluded(session, body.vote_ids, body.excluded, by=identity.user_id, reason=body.reason)
    return Excluded(changed=changed)


@router.put("/quarantine")
def quarantine(body: Quarantines, identity: Admin, services: ServicesHere) -> Quarantined:
    """Quarantine or release people, who may be named by their votes; all or, on an error, none."""
    with services.database.write() as session:
        return Quarantined(changed=set_quarantines(session, **body.model_dump(), by=identity.user_id))


@router.put("/reviews")
def review_all(body: NewReviews, identity: Admin, services: ServicesHere) -> Reviewed:
    """Your second rating or note on each of these votes that has none of yours yet.

    Without either, yours are taken back. All or, on an error, none.
    """
    with services.database.write() as session:
        rate = partial(second_ratings.rate_all, session, body.vote_ids, by=identity.user_id)
        return Reviewed(changed=rate(label=body.label, note=body.note))


@router.get("/{vote_id}")
def show_conversation(vote_id: Id, identity: Admin, services: ServicesHere) -> Conversation:
    """A vote with the conversation up to its reply. That it was read is in the audit log."""
    with services.database.write() as session:
        vote = get_voted_reply(session, vote_id)
        audit.record(session, identity.user_id, "read conversation", vote.chat_id)
        turns = [Turn.model_validate(one) for one in conversation(session, vote)]
        return Conversation(**VotedReplyOut.model_validate(vote).model_dump(), messages=turns)


@router.put("/{vote_id}/review")
def review(vote_id: Id, body: NewReview, identity: Admin, services: ServicesHere) -> VotedReplyOut:
    """Your second rating, note and correction, in place of your earlier ones; without any it is removed."""
    with services.database.write() as session:
        second_ratings.rate(session, vote_id, by=identity.user_id, **body.model_dump())
        return VotedReplyOut.model_validate(get_voted_reply(session, vote_id))
