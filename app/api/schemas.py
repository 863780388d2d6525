"""The JSON models that the API's routes share, and functions that build them from stored rows.

Lists are paged: {"items", "next"}, where `next` is the `cursor` query parameter of the next page. A cursor
is opaque to clients.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

from fastapi import Path, Query
from pydantic import AfterValidator, AliasPath, BaseModel, Field
from sqlmodel import Session

from storage.chats.chats import Place
from storage.chats.votes import votes_of
from storage.db.ids import is_id
from storage.db.tables import ModelVersion, TrainingRun
from storage.errors import NotFound, TooLarge
from storage.registry.canaries import Traffic
from storage.registry.model_versions import list_versions, version_of_run
from storage.settings import Settings


class HasId(Protocol):
    id: str


Item = TypeVar("Item")
Identified = TypeVar("Identified", bound=HasId)
NO_CURSOR = "give `next` of the previous page unchanged, or leave it out for the first page"


def _existing_id(text: str) -> str:
    # A text that cannot be an id names nothing, so the answer is a 404, not a 422.
    if not is_id(text):
        raise NotFound(f"There is nothing with the id {text!r}.")
    return text


def _id_or_name(text: str) -> str:
    number = text.removeprefix("v")
    if not is_id(text) and not (text.startswith("v") and number.isascii() and number.isdigit()):
        raise NotFound(f"There is no model version {text!r}; GET /api/v1/model-versions lists them.")
    return text


def check_length(text: str, settings: Settings, field: str) -> None:
    """Raise TooLarge for a text beyond THUMBLOOP_MAX_MESSAGE_CHARS."""
    most = settings.max_message_chars
    if len(text) > most:
        raise TooLarge(
            "{name} has {length} characters; the limit is {most}.",
            field=field,
            name=field,
            length=len(text),
            most=most,
        )


Id = Annotated[str, Path(description="An id that the API returned."), AfterValidator(_existing_id)]
VersionId = Annotated[str, Path(description="An id, or a name such as v2."), AfterValidator(_id_or_name)]


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next: str | None = Field(description="The `cursor` of the next page; null on the last one.")


def _id_cursor(text: str) -> str:
    if not is_id(text):
        raise ValueError(NO_CURSOR)
    return text


Limit = Annotated[int, Query(ge=1, le=200, description="The largest number of items.")]
Cursor = Annotated[
    Annotated[str, AfterValidator(_id_cursor)] | None,
    Query(description="`next` of the previous page; left out for the first one."),
]


def page_of(items: list[Identified], limit: int) -> "Page[Identified]":
    """The first page of the items, which a query for one more than the limit found."""
    return Page(items=items[:limit], next=items[limit - 1].id if len(items) > limit else None)


class VoteOut(BaseModel, from_attributes=True):
    message_id: str
    label: bool | None = Field(description="true: up, false: down, null: no vote.")
    revision: int = Field(description="Grows with every change; 0 before the first vote.")
    tags: list[str] = []
    comment: str | None = None
    correction: str | None = None
    share: float | None = Field(
        None, description="Of a vote on the whole chat: the part that falls to this reply."
    )


class MessageOut(BaseModel):
    id: str
    chat_id: str
    parent_id: str | None
    role: Literal["user", "assistant"]
    content: str
    reasoning: str | None = Field(None, description="Of a reply: what the model thought before it.")
    state: str = Field(description="streaming, complete, stopped, failed, given (by a client) or erased.")
    model_version: str | None = Field(description="The version that wrote it, such as v2.")
    finish_reason: str | None = Field(description="stop, length, cancelled, interrupted or error.")
    timings: dict[str, Any] | None = Field(
        None, description="Of a reply: tokens, and in seconds queued_s, first_token_s and total_s."
    )
    messages_left_out: int = Field(
        description="Of a reply: how many of the first messages the model did not read."
    )
    created_at: datetime
    vote: VoteOut | None = Field(None, description="The caller's own vote.")
    siblings: list[str] = Field([], description="Ids of this message and its alternatives, oldest first.")


class ChatOut(BaseModel, from_attributes=True):
    id: str
    title: str
    system_prompt: str
    sampling: dict[str, float] | None = Field(
        None, description="temperature, top_p and max_new_tokens, where they are not the settings'."
    )
    source: str
    consent: bool = Field(description="Whether it may be used for training.")
    created_at: datetime
    updated_at: datetime
    pinned_at: datetime | None = Field(None, description="When you pinned it; null: it is not.")


class ChatWithMessages(ChatOut):
    messages: list[MessageOut] = Field(description="From the first message to the current leaf.")


class RunOut(BaseModel):
    id: str
    state: str = Field(description="requested, running, succeeded, skipped, failed or cancelled.")
    reason: str | None
    trigger: str
    force: bool
    cancel_requested: bool
    progress: dict[str, Any]
    metrics: dict[str, Any]
    model_version: str | None = Field(description="The version that the run produced, such as v2.")
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class VersionOut(BaseModel):
    id: str
    name: str
    state: str = Field(description="candidate, ready, rejected or retired.")
    deployed: bool
    canary: bool = Field(description="Whether it is the canary.")
    share: float = Field(description="Share of the new chats that it answers.")
    kind: str
    base_model: str
    reason: str | None
    run_id: str | None
    parent_id: str | None
    sha256: str | None
    metrics: dict[str, Any]
    erased_votes: int = Field(
        description="Votes it was trained on that were erased, or whose chat was deleted or has no consent."
    )
    created_at: datetime


class ApprovalOut(BaseModel, from_attributes=True):
    version: str
    replies: int = Field(description="Finished replies of this version; imported ones are left out.")
    up: int
    down: int
    approval: float | None = Field(description="up / (up + down); null without votes.")
    low: float = Field(
        validation_alias=AliasPath("interval", "low"),
        description="The 95 % interval of the approval (Clopper and Pearson), from here",
    )
    high: float = Field(validation_alias=AliasPath("interval", "high"), description="to here.")
    enough_votes: bool = Field(description="false: the interval is too wide to say anything.")
    vote_rate: float | None = Field(description="Votes per reply; null without replies.")


def messages_out(session: Session, places: Sequence[Place], user_id: str) -> list[MessageOut]:
    """The messages with this person's votes."""
    names = {version.id: version.name for version in list_versions(session)}
    votes = votes_of(session, user_id, [place.message.id for place in places])
    return [
        MessageOut(
            **place.message.model_dump(include=set(MessageOut.model_fields)),
            model_version=names.get(place.message.model_version_id or ""),
            vote=VoteOut.model_validate(vote) if (vote := votes.get(place.message.id)) is not None else None,
            siblings=place.alternatives,
        )
        for place in places
    ]


def run_out(session: Session, run: TrainingRun) -> RunOut:
    version = version_of_run(session, run.id)
    fields = run.model_dump(include=set(RunOut.model_fields))
    return RunOut(**fields, model_version=version.name if version is not None else None)


def version_out(version: ModelVersion, traffic: Traffic) -> VersionOut:
    fields = version.model_dump(include=set(VersionOut.model_fields))
    return VersionOut(
        **fields,
        name=version.name,
        deployed=version.id == traffic.deployed_id,
        canary=version.id == traffic.canary_id,
        share=traffic.share_of(version.id),
    )
