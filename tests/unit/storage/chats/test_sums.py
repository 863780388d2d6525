"""Kept sums equal a count of everything, whatever changes and whenever they are kept, on both engines."""

import random
from datetime import timedelta
from typing import get_args

import pytest
import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.chats import chats, sums, votes
from storage.db.database import Database
from storage.db.ids import first_id
from storage.db.tables import ChangedSum, Chat, Message, User, Vote, VoteSum, now
from storage.privacy import consent, erasure, quarantine
from tests.support.rows import add_answer, add_person_with_reply, add_reply

HOURS = 40
SEED = 7
Found = dict[str, dict[str, sums.Total]]


def in_the_past(session: Session, hours: int) -> str:
    """A reply whose id is that old, and so is its vote."""
    person, _, reply = add_person_with_reply(session)
    then = now() - timedelta(hours=hours)
    old = first_id(then)[:13] + reply.id[13:]
    session.execute(sa.update(Message).where(col(Message.id) == reply.id).values(id=old))
    votes.cast_vote(session, user_id=person.id, message_id=old, label=True, tags=["wrong"], at=then)
    return old


def totals(database: Database) -> Found:
    with database.read() as session:
        return {kind: sums.totals(session, kind) for kind in get_args(sums.Kind)}


def recounted(database: Database) -> Found:
    """What is counted when nothing is kept; the sums are as they were afterwards."""
    with database.write() as session:
        every = [ChangedSum(bucket=one[: sums.BUCKET]) for one in session.exec(select(Message.id))]
        session.add_all([*every, *(ChangedSum(bucket=f"{n:07x}") for n in range(sums.FEW + 1))])
        session.flush()
        found = {kind: sums.totals(session, kind) for kind in get_args(sums.Kind)}
        session.rollback()
    return found


def keep(database: Database) -> None:
    more = True
    while more:
        with database.write() as session:
            more = sums.keep(session)


def test_they_equal_a_recount_after_any_change(database: Database) -> None:
    draw = random.Random(SEED)
    with database.write() as session:
        replies = [in_the_past(session, hours) for hours in range(0, HOURS, 4)]
        source = session.exec(select(Chat).limit(1)).one()
        source.source = "judge:x"
    seen: list[Found] = []
    for turn in range(80):
        with database.write() as session:
            change(session, draw, draw.choice(replies))
        if turn % 7 == 0:
            keep(database)
            with database.read() as session:
                assert session.exec(select(ChangedSum.id)).first() is None
        if turn % 4 == 0:
            seen.append(totals(database))
            assert seen[-1] == recounted(database)
    assert len({repr(one) for one in seen}) > 10
    assert all(seen[0].values())


def change(session: Session, draw: random.Random, reply_id: str) -> None:
    vote = session.exec(select(Vote).where(Vote.message_id == reply_id)).first()
    chat = session.get_one(Chat, session.get_one(Message, reply_id).chat_id)
    given = {"user_id": chat.owner_id, "message_id": reply_id}
    what = draw.randrange(9)
    if what == 0 and chat.deleted_at is None:
        label, tags = draw.random() < 0.5, draw.choice((["wrong"], ["rude", "wrong"], []))
        votes.cast_vote(session, **given, label=label, tags=tags, share=draw.choice((None, 0.5)))
    elif what == 1 and chat.deleted_at is None:
        votes.clear_vote(session, **given)
    elif what == 2 and chat.title:
        was = session.get_one(User, chat.owner_id).quarantined
        quarantine.set_quarantine(session, chat.owner_id, not was, by="test")
    elif what == 3 and vote is not None:
        quarantine.set_excluded(session, [vote.id], not vote.excluded, by="test")
    elif what == 4:
        consent.set_consent(session, chat, not chat.consent, by="test")
    elif what == 5 and chat.deleted_at is None:
        consent.delete_chat(session, chat.id)
    elif what == 6 and chat.title:  # not erased
        consent.restore_chat(session, chat.id, chat.owner_id)
    elif what == 7 and chat.deleted_at is None:
        asked = chats.add_user_message(session, chat.id, "And?", parent_id=reply_id)
        add_answer(session, chat, asked.id, state=draw.choice(("complete", "stopped", "failed")))
    elif what == 8 and chat.title and draw.random() < 0.5:
        erasure.erase_user(session, chat.owner_id, by="test")


def test_an_erased_tag_is_not_among_them(database: Database) -> None:
    with database.write() as session:
        person, _, _ = add_person_with_reply(session, label=True, tags=["a name"])
    keep(database)
    with database.write() as session:
        erasure.erase_user(session, person.id, by="test")
    with database.read() as session:
        assert session.exec(select(VoteSum.name)).all() == []


def test_a_vote_that_is_removed_is_not_counted(database: Database) -> None:
    with database.write() as session:
        add_person_with_reply(session, label=True)
    keep(database)
    with database.write() as session:
        session.delete(session.exec(select(Vote)).one())
    assert totals(database) == recounted(database)
    assert totals(database)["source"] == {}


def test_a_vote_that_is_committed_while_they_are_kept_is_counted(database: Database) -> None:
    if database.dialect == "sqlite":
        pytest.skip("SQLite has one writer")
    with database.write() as session:
        person, chat, reply = add_person_with_reply(session)
        add_reply(session, chat)
    with database.write() as voting:
        votes.cast_vote(voting, user_id=person.id, message_id=reply.id, label=True)
        voting.flush()
        keep(database)
        assert totals(database)["source"] == {}
    assert totals(database) == recounted(database)
    assert totals(database)["source"] == {"web": sums.Total(0, 1, 0)}
