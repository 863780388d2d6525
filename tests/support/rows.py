"""Rows that many tests begin with: people, replies, votes and versions."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.chats import chats, votes
from storage.db.database import Database
from storage.db.ids import new_id
from storage.db.tables import AuditEvent, Chat, Message, ModelVersion, TrainingRun, User, Vote
from storage.people import users
from storage.registry import model_versions, training_runs
from storage.registry.artifacts import Published
from storage.registry.lineage import Key, keep_lineage
from storage.registry.set_aside import Reason, keep_set_aside


def audit_events(session: Session) -> list[AuditEvent]:
    """What the audit log holds, newest first."""
    return list(session.exec(select(AuditEvent).order_by(col(AuditEvent.id).desc())))


def add_answer(
    session: Session,
    chat: Chat,
    asked_id: str,
    answer: str = "Because.",
    *,
    version_id: str | None = None,
    state: str = "complete",
    label: bool | None = None,
    **details: Any,
) -> Message:
    """A reply to a message of the chat, by v1 unless `version_id` says otherwise.

    With `label` the chat's owner votes on it; `details` are the vote's tags, comment and correction.
    """
    version_id = version_id or model_versions.ensure_base(session, "tiny").id
    reply = chats.begin_reply(session, chat.id, asked_id, model_version_id=version_id, sampling={})
    if state != "streaming":
        chats.finish_reply(
            session, reply.id, content=answer, state=state, finish_reason="stop", token_ids=[5, 2], timings={}
        )
    if label is not None:
        votes.cast_vote(session, user_id=chat.owner_id, message_id=reply.id, label=label, **details)
    return session.get_one(Message, reply.id)


def add_reply(
    session: Session,
    chat: Chat,
    question: str = "Why?",
    answer: str = "Because.",
    **more: Any,
) -> Message:
    """A question and its answer, appended to the chat; `more` as in `add_answer`."""
    message = chats.add_user_message(session, chat.id, question)
    return add_answer(session, chat, message.id, answer, **more)


def add_person_with_reply(
    session: Session, system_prompt: str = "", **more: Any
) -> tuple[User, Chat, Message]:
    """A person with a chat and a reply in it; `more` as in `add_answer`."""
    person = users.create_anonymous(session)
    chat = chats.create_chat(session, person.id, system_prompt=system_prompt)
    return person, chat, add_reply(session, chat, **more)


def vote_on(session: Session, message_id: str) -> Vote:
    """The only vote on this reply."""
    return session.exec(select(Vote).where(Vote.message_id == message_id)).one()


def rate(
    session: Session, question: str, answers: dict[str, bool], *, system_prompt: str = "", **details: Any
) -> list[Message]:
    """A new chat of a new person, in which one question has these answers, each with its vote."""
    person = users.create_anonymous(session)
    chat = chats.create_chat(session, person.id, system_prompt=system_prompt)
    parent_id = chats.add_user_message(session, chat.id, question).id
    return [
        add_answer(session, chat, parent_id, text, label=label, **details) for text, label in answers.items()
    ]


def publish_candidate(session: Session, learned_from: Iterable[Key] = (), **snapshot: Any) -> ModelVersion:
    """The next version as a run publishes it; there is no adapter behind it."""
    if not model_versions.list_versions(session):
        model_versions.ensure_base(session, "tiny")
    run = training_runs.request_run(session, trigger="api")
    held = training_runs.claim_run(session, run.id, owner="t", lease_seconds=60, max_attempts=3)
    assert held is not None
    training_runs.update_run(session, run.id, held.fence, snapshot=snapshot)
    keep_lineage(session, run.id, learned_from)
    made = Published(f"adapters/{run.id}", "s", {})
    version = model_versions.publish_version(session, run.id, held.fence, made, base_model="tiny", metrics={})
    training_runs.finish_run(session, run.id, held.fence, state="succeeded", reason="done")
    return version


def add_votes(
    session: Session,
    version: str,
    labels: Sequence[bool],
    *,
    people: int = 1,
    canary_id: str | None = None,
) -> list[User]:
    """Votes on replies by this version, in a chat each, by so many new people in turn, without a log of them.

    The rows are inserted at once, since a test of statistics needs hundreds.
    """
    version_id = model_versions.get_version(session, version).id
    raters = [users.create_anonymous(session) for _ in range(people)]
    owners = [raters[number % people].id for number in range(len(labels))]
    chat_ids = [new_id() for _ in labels]
    replies = [
        Message(chat_id=chat_id, role="assistant", model_version_id=version_id) for chat_id in chat_ids
    ]
    rows = [
        [
            Chat(id=id, owner_id=owner, canary_id=canary_id)
            for id, owner in zip(chat_ids, owners, strict=True)
        ],
        replies,
        [
            Vote(message_id=reply.id, user_id=owner, label=label)
            for reply, owner, label in zip(replies, owners, labels, strict=True)
        ],
    ]
    session.flush()
    for kind in rows:
        if kind:
            session.execute(sa.insert(type(kind[0])), [row.model_dump() for row in kind])
    return raters


def add_set_aside(session: Session, model: str, reason: Reason) -> tuple[User, Message, TrainingRun]:
    """A person, their liked reply, and the newest run, cancelled, which set that vote aside."""
    base = model_versions.ensure_base(session, model)
    person, _, reply = add_person_with_reply(session, label=True, version_id=base.id)
    run = training_runs.request_run(session, trigger="cli")
    keep_set_aside(session, run.id, [(reply.id, person.id, reason)])
    return person, reply, training_runs.cancel_run(session, run.id)


def add_version(database: Database, state: str = "ready") -> str:
    with database.write() as session:
        version = publish_candidate(session)
        model_versions.set_state(session, version.id, state, f"The gate says {state}.")
    return version.name


def deploy(database: Database, name: str) -> None:
    with database.write() as session:
        model_versions.deploy_version(session, name, by="test", why="because")


def roll_back(database: Database) -> str:
    with database.write() as session:
        return model_versions.roll_back(session, by="test", why="worse").name
