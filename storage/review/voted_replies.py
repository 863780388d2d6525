"""Votes with their replies, newest first, filtered and searched, and the conversation of one."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from storage.chats.chats import path_to
from storage.db.tables import Chat, Message, ModelVersion, Review, RunVote, SetAsideVote, User, Vote
from storage.db.text_index import has_text, messages_with
from storage.errors import NotFound
from storage.examples.filters import RatedFilter
from storage.examples.queries import columns, comment_conditions, rated_conditions

# Why training does not use a vote. One that nothing keeps back counts.
Use = Literal["counts", "excluded", "person quarantined", "no consent", "set aside by the guard"]
LOOK_AT = 10_000  # a text of two letters is searched in these within a fraction of a second
USES: tuple[Use, ...] = ("counts", "excluded", "person quarantined", "no consent", "set aside by the guard")


class VoteFilter(RatedFilter):
    consent: Literal["given", "withheld", "any"] = Field(
        "any", description="Chats whose owner consents to training, does not, or both."
    )
    search: str | None = Field(
        None, max_length=200, description="Text in the reply, its question, the comment or the correction."
    )
    use: Use | None = Field(
        None, description="Votes that training may use (counts), or those that this keeps from it."
    )
    reviewed: bool | None = Field(None, description="With (true) or without (false) a second rating.")
    disagreed: bool = Field(False, description="Only votes that a second rating contradicts.")


@dataclass(frozen=True)
class VotedReply:
    """A vote, the reply it is on, and the message which that answers."""

    id: str
    message_id: str
    chat_id: str
    user_id: str
    person: str | None  # the name of an account; others have none
    label: bool
    tags: list[str]
    comment: str | None
    correction: str | None
    voted_at: datetime
    source: str
    model_version: str | None
    question: str
    reply: str
    use: Use
    set_aside: str | None  # the guard's reason in the newest run
    learned_by: Sequence[str]  # names of versions
    reviews: Sequence[Review]


@dataclass(frozen=True)
class VotePage:
    """Votes, how many match among those that were looked at, and where the next page begins, if there is one.

    `complete` if all older votes were looked at.
    """

    votes: list[VotedReply]
    matching: int
    next: str | None
    complete: bool


def list_votes(
    session: Session, filter: VoteFilter, *, limit: int, before: str | None = None, look_at: int = LOOK_AT
) -> VotePage:
    """The newest votes that match, without cleared ones and those in deleted chats.

    `before` is `next` of the previous page. The filter's person is an id. Of a large store only `look_at`
    votes are looked at, so a page may have fewer than `limit` votes, or none, although there is a next one.
    A text that few messages have is searched in all.
    """
    older = (col(Vote.id) < before,) if before is not None else ()
    few = messages_with(session, filter.search) if filter.search else None
    oldest = None
    if few is None:
        oldest = session.scalar(
            sa.select(col(Vote.id)).where(*older).order_by(col(Vote.id).desc()).offset(look_at).limit(1)
        )
    looked_at = (*older, col(Vote.id) > oldest) if oldest is not None else older
    query = _query().where(*looked_at, *_conditions(filter, few)).order_by(col(Vote.id).desc())
    found = _read(session, query.limit(limit + 1))
    ids = query.with_only_columns(col(Vote.id)).order_by(None).subquery()
    matching = session.execute(sa.select(sa.func.count()).select_from(ids)).scalar_one()
    if len(found) > limit:
        return VotePage(found[:limit], matching, found[limit - 1].id, oldest is None)
    if oldest is None:
        return VotePage(found, matching, None, complete=True)
    last = select(Vote.id).where(col(Vote.id) > oldest).order_by(col(Vote.id)).limit(1)
    return VotePage(found, matching, session.exec(last).first(), complete=False)


def get_voted_reply(session: Session, vote_id: str) -> VotedReply:
    """Raises NotFound for a vote that does not exist, was taken back, or is in a deleted chat."""
    found = _read(session, _query().where(col(Vote.id) == vote_id))
    if not found:
        raise NotFound(f"There is no vote {vote_id}.")
    return found[0]


def about(vote: VotedReply) -> str:
    """What a vote is about, as text to group: a comment says more than the question what was wrong."""
    return " ".join([vote.question, vote.comment or "", *vote.tags])


def conversation(session: Session, vote: VotedReply) -> list[Message]:
    """The messages up to the reply."""
    return path_to(session, vote.message_id)


_question = aliased(Message)
_guarded = (
    sa.select(col(SetAsideVote.reason))
    .where(col(SetAsideVote.message_id) == Vote.message_id, col(SetAsideVote.user_id) == Vote.user_id)
    .limit(1)
    .scalar_subquery()
)
_use = sa.case(
    (col(Vote.excluded), "excluded"),
    (col(User.quarantined), "person quarantined"),
    (col(Chat.consent).is_(False), "no consent"),
    (_guarded.is_not(None), "set aside by the guard"),
    else_="counts",
)


def _query() -> sa.Select[*tuple[Any, ...]]:
    return (
        sa.select(
            *columns(Vote, "id", "message_id", "user_id", "label", "tags", "comment", "correction"),
            col(Vote.updated_at).label("voted_at"),
            *columns(Chat, "source"),
            col(User.name).label("person"),
            col(Chat.id).label("chat_id"),
            col(Message.content).label("reply"),
            sa.func.coalesce(_question.content, "").label("question"),
            col(ModelVersion.number),
            _use.label("use"),
            _guarded.label("set_aside"),
        )
        .join_from(Vote, Message, col(Message.id) == Vote.message_id)
        .join(Chat, col(Chat.id) == Message.chat_id)
        .join(User, col(User.id) == Vote.user_id)
        .outerjoin(_question, col(_question.id) == Message.parent_id)
        .outerjoin(ModelVersion, col(ModelVersion.id) == Message.model_version_id)
        .where(col(Vote.label).is_not(None), col(Chat.deleted_at).is_(None))
    )


def _conditions(filter: VoteFilter, few: list[str] | None) -> Iterator[sa.ColumnElement[bool]]:
    yield from rated_conditions(filter, Vote, col(Vote.updated_at))
    yield from comment_conditions(filter, Vote)
    if filter.label is not None:
        yield col(Vote.label).is_(filter.label)
    if filter.tag is not None:  # as the database has it: a JSON list as text
        yield sa.cast(col(Vote.tags), sa.Text).contains(json.dumps(filter.tag), autoescape=True)
    if filter.source == "correction":
        yield col(Vote.correction).is_not(None)
    elif filter.source is not None:
        kinds = col(Chat.source).startswith(f"{filter.source}:", autoescape=True)
        yield (col(Chat.source) == filter.source) | kinds
    if filter.consent != "any":
        yield col(Chat.consent).is_(filter.consent == "given")
    if filter.search and few is not None:
        yield col(Vote.id).in_(_votes_about(filter.search, few))
    elif filter.search:
        texts = (Message.content, _question.content, Vote.comment, Vote.correction)
        yield sa.or_(*(has_text(text, filter.search) for text in texts))
    if filter.use is not None:
        yield _use == filter.use
    rated = sa.exists().where(col(Review.vote_id) == Vote.id, col(Review.label).is_not(None))
    if filter.reviewed is not None:
        yield rated if filter.reviewed else ~rated
    if filter.disagreed:
        yield rated.where(col(Review.label) != col(Vote.label))


def _votes_about(text: str, messages: list[str]) -> sa.CompoundSelect[Any]:
    """The ids of the votes on these messages or on answers to them, and of those that say the text."""
    answers = select(Message.id).where(col(Message.parent_id).in_(messages))
    vote = sa.select(col(Vote.id))
    said = col(Vote.comment).is_not(None) | col(Vote.correction).is_not(None)
    return sa.union_all(
        vote.where(col(Vote.message_id).in_(messages)),
        vote.where(col(Vote.message_id).in_(answers)),
        vote.where(said, has_text(Vote.comment, text) | has_text(Vote.correction, text)),
    )


def _read(session: Session, query: sa.Select[*tuple[Any, ...]]) -> list[VotedReply]:
    rows = session.execute(query).all()
    reviews = _grouped(
        session.scalars(
            sa.select(Review)
            .where(col(Review.vote_id).in_([row.id for row in rows]))
            .order_by(col(Review.id))
        ),
        key=lambda review: review.vote_id,
        value=lambda review: review,
    )
    learned = _grouped(
        session.execute(
            sa.select(*columns(RunVote, "message_id", "user_id"), col(ModelVersion.number))
            .join(ModelVersion, col(ModelVersion.run_id) == RunVote.run_id)
            .where(col(RunVote.message_id).in_([row.message_id for row in rows]))
            .order_by(col(ModelVersion.number))
        ),
        key=lambda row: (row.message_id, row.user_id),
        value=lambda row: f"v{row.number}",
    )
    return [
        VotedReply(
            **{name: value for name, value in row._mapping.items() if name != "number"},
            model_version=f"v{row.number}" if row.number is not None else None,
            learned_by=learned.get((row.message_id, row.user_id), ()),
            reviews=reviews.get(row.id, ()),
        )
        for row in rows
    ]


def _grouped(rows: Any, *, key: Any, value: Any) -> Mapping[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(value(row))
    return found
