"""Votes on replies, by the reply's message id, and signals: what a person did with a reply without voting.

There may be hundreds a second, so a vote waits for its commit without holding a thread, and its voter is
identified in the same transaction.
"""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Response
from pydantic import BaseModel, Field, StrictBool
from sqlmodel import Session

from app.api.schemas import Id, VoteOut, check_length
from app.web.auth import CurrentSecret, CurrentUser, Secret, ServicesHere, identify
from app.web.errors import ErrorOut
from app.web.openapi_names import Body
from storage.chats import chat_votes, votes
from storage.chats.signals import record_signal
from storage.db.database import Database
from storage.errors import InvalidInput
from storage.settings.training import SignalKind

router = APIRouter(tags=["votes"])

Tag = Annotated[str, Field(min_length=1, max_length=50)]
ETAG = re.compile(r'"(0|[1-9][0-9]{0,8})"')
WITH_ETAG: dict[int | str, dict[str, Any]] = {
    200: {"headers": {"ETag": {"description": "The revision, in quotes.", "schema": {"type": "string"}}}}
}
CHANGES: dict[int | str, dict[str, Any]] = WITH_ETAG | {
    412: {"model": ErrorOut, "description": "The vote has another revision."}
}


EXAMPLE = {
    "label": False,
    "tags": ["wrong"],
    "comment": "The capital is Paris.",
    "correction": "The capital of France is Paris.",
}


class NewVote(Body, json_schema_extra={"examples": [EXAMPLE]}):
    label: StrictBool = Field(description="true: thumbs up. false: thumbs down.")
    tags: list[Tag] | None = Field(None, max_length=20, description="Reasons, such as `wrong` or `too long`.")
    comment: str | None = None
    correction: str | None = Field(None, description="What the reply should have been.")


class NewSignal(Body):
    kind: SignalKind = Field(description="What was done with the reply: regenerated, edited or copied.")


class SignalOut(BaseModel):
    message_id: str
    kind: SignalKind


class VoteTags(BaseModel):
    tags: list[str] = Field(description="All offered tags.")
    up: list[str] = Field(description="Tags to offer after a thumb up.")
    down: list[str] = Field(description="Tags to offer after a thumb down.")


@router.get("/vote-tags")
def list_vote_tags(_: CurrentUser, services: ServicesHere) -> VoteTags:
    """The reason tags to offer with a vote; other tags are allowed."""
    up, down = services.settings.vote_tags_up, services.settings.vote_tags
    return VoteTags(tags=list(dict.fromkeys([*down, *up])), up=up, down=down)


async def expected(
    if_match: Annotated[
        str | None,
        Header(description='Only if the vote has this revision, such as `"2"`; `"0"`: never voted.'),
    ] = None,
    if_none_match: Annotated[
        str | None, Header(description="`*`: only if there is no vote (none yet, or taken back).")
    ] = None,
) -> votes.Expected:
    revision = ETAG.fullmatch(if_match.strip()) if if_match is not None else None
    if if_match is not None and revision is None:
        raise InvalidInput(
            f'If-Match must be one revision in double quotes, such as "2", as the ETag of the vote was; '
            f"not {if_match!r}.",
            field="If-Match",
        )
    if if_none_match is not None and if_none_match.strip() != "*":
        raise InvalidInput(
            f"If-None-Match must be * (only if there is no vote), not {if_none_match!r}; use If-Match for a "
            f"revision.",
            field="If-None-Match",
        )
    return votes.Expected(
        revision=int(revision[1]) if revision is not None else None, unvoted=if_none_match is not None
    )


ExpectedHere = Annotated[votes.Expected, Depends(expected)]


@router.get("/messages/{message_id}/vote", responses=WITH_ETAG)
def get_vote(message_id: Id, identity: CurrentUser, services: ServicesHere, response: Response) -> VoteOut:
    """Your vote on a reply that you received; its revision is 0 before you vote."""
    with services.database.read() as session:
        vote = votes.get_vote(session, user_id=identity.user_id, message_id=message_id)
    return _answer(vote, response)


@router.put("/messages/{message_id}/vote", responses=CHANGES)
async def cast_vote(
    message_id: Id,
    body: NewVote,
    secret: CurrentSecret,
    services: ServicesHere,
    expected: ExpectedHere,
    response: Response,
) -> VoteOut:
    """Vote on a reply that you received, or change your vote. It is on disk before the answer."""
    check_length(body.comment or "", services.settings, "comment")
    check_length(body.correction or "", services.settings, "correction")
    cast = partial(votes.cast_vote, message_id=message_id, expected=expected, **body.model_dump())
    return await _store(services.database, secret, cast, response)


@router.delete("/messages/{message_id}/vote", responses=CHANGES)
async def clear_vote(
    message_id: Id, secret: CurrentSecret, services: ServicesHere, expected: ExpectedHere, response: Response
) -> VoteOut:
    """Take your vote back."""
    clear = partial(votes.clear_vote, message_id=message_id, expected=expected)
    return await _store(services.database, secret, clear, response)


class NewChatVote(Body):
    label: StrictBool = Field(description="true: thumbs up. false: thumbs down.")


class ChatVoteOut(BaseModel, from_attributes=True):
    chat_id: str
    label: bool | None = Field(description="true: up, false: down, null: no vote on the whole chat.")
    message_ids: list[str] = Field(description="The replies that share it, oldest first.")
    share: float | None = Field(description="What falls to each of them: its weight in training.")


@router.get("/chats/{chat_id}/vote")
def get_chat_vote(chat_id: Id, identity: CurrentUser, services: ServicesHere) -> ChatVoteOut:
    """Your vote on the whole chat."""
    with services.database.read() as session:
        return ChatVoteOut.model_validate(
            chat_votes.chat_vote(session, user_id=identity.user_id, chat_id=chat_id)
        )


@router.put("/chats/{chat_id}/vote")
def cast_chat_vote(
    chat_id: Id, body: NewChatVote, identity: CurrentUser, services: ServicesHere
) -> ChatVoteOut:
    """Vote on the whole chat: every reply of the current branch without a vote of its own gets a share."""
    with services.database.write() as session:
        return ChatVoteOut.model_validate(
            chat_votes.cast_chat_vote(session, user_id=identity.user_id, chat_id=chat_id, label=body.label)
        )


@router.delete("/chats/{chat_id}/vote")
def clear_chat_vote(chat_id: Id, identity: CurrentUser, services: ServicesHere) -> ChatVoteOut:
    """Take your vote on the whole chat back; votes on single replies stay."""
    with services.database.write() as session:
        return ChatVoteOut.model_validate(
            chat_votes.clear_chat_vote(session, user_id=identity.user_id, chat_id=chat_id)
        )


@router.post("/messages/{message_id}/signals", status_code=201)
def add_signal(message_id: Id, body: NewSignal, identity: CurrentUser, services: ServicesHere) -> SignalOut:
    """Record what was done with a reply that you received; repeating it changes nothing.

    `edited` means that its question was edited. This API records regenerating and editing by itself.
    """
    with services.database.write() as session:
        record_signal(session, user_id=identity.user_id, message_id=message_id, kind=body.kind)
    return SignalOut(message_id=message_id, kind=body.kind)


async def _store(
    database: Database, secret: Secret, write: Callable[..., votes.CurrentVote], response: Response
) -> VoteOut:
    """Identify the voter and write, in one transaction; answers once the vote is on disk."""

    def identified(session: Session) -> votes.CurrentVote:
        return write(session, user_id=identify(session, secret).user_id)

    return _answer(await asyncio.wrap_future(database.submit(identified)), response)


def _answer(vote: votes.CurrentVote, response: Response) -> VoteOut:
    response.headers["ETag"] = f'"{vote.revision}"'
    return VoteOut.model_validate(vote)
