"""Votes on replies, by the reply's message id."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field, StrictBool

from app.api.shapes import Id, Text, VoteOut, vote_out
from app.auth import CurrentUser, ServicesHere
from storage import votes
from storage.errors import TooLarge

router = APIRouter(tags=["votes"])

Tag = Annotated[Text, Field(min_length=1, max_length=50)]


class NewVote(BaseModel):
    label: StrictBool = Field(description="true: thumbs up. false: thumbs down.")
    tags: list[Tag] | None = Field(None, max_length=20, description="Reasons, such as `wrong` or `too long`.")
    comment: Text | None = None
    correction: Text | None = Field(None, description="What the reply should have been.")


class VoteTags(BaseModel):
    tags: list[str]


@router.get("/vote-tags")
def list_vote_tags(_: CurrentUser, services: ServicesHere) -> VoteTags:
    """The reason tags to offer with a vote; a vote may have others."""
    return VoteTags(tags=services.settings.vote_tags)


@router.put("/messages/{message_id}/vote")
def cast_vote(message_id: Id, body: NewVote, identity: CurrentUser, services: ServicesHere) -> VoteOut:
    """Vote on a reply that was given to you, or change your vote. Once answered, it is on disk."""
    most = services.settings.max_message_chars
    for field, text in (("comment", body.comment), ("correction", body.correction)):
        if text is not None and len(text) > most:
            raise TooLarge(f"The {field} has {len(text)} characters; the most is {most}.", field=field)
    vote = services.database.group_write(
        lambda session: votes.cast_vote(
            session,
            user_id=identity.user_id,
            message_id=message_id,
            label=body.label,
            tags=body.tags,
            comment=body.comment,
            correction=body.correction,
        )
    )
    return vote_out(vote)


@router.delete("/messages/{message_id}/vote")
def clear_vote(message_id: Id, identity: CurrentUser, services: ServicesHere) -> VoteOut:
    """Take your vote back."""
    vote = services.database.group_write(
        lambda session: votes.clear_vote(session, user_id=identity.user_id, message_id=message_id)
    )
    return vote_out(vote) if vote is not None else VoteOut(message_id=message_id, label=None, revision=0)
