"""Votes and their log, on both engines."""

from functools import partial

import pytest
from sqlmodel import select

from storage.chats import chats, votes
from storage.db.database import Database
from storage.db.ids import new_id
from storage.db.tables import Vote, VoteEvent
from storage.errors import Conflict, InvalidInput, NotAllowed, NotFound
from storage.privacy.consent import delete_chat
from tests.support.rows import add_person_with_reply, add_reply
from tests.support.threads import at_once


def test_a_vote_is_cast_changed_and_cleared_and_every_step_is_logged(database: Database) -> None:
    with database.write() as session:
        person, _, reply = add_person_with_reply(session)
        for label in (True, True, False):  # the repeated one changes nothing
            votes.cast_vote(session, user_id=person.id, message_id=reply.id, label=label)
    with database.write() as session:
        assert votes.votes_of(session, person.id, [reply.id])[reply.id].label is False
        cleared = votes.clear_vote(session, user_id=person.id, message_id=reply.id)
        votes.clear_vote(session, user_id=person.id, message_id=reply.id)
    with database.read() as session:
        assert cleared is not None
        assert (cleared.label, cleared.revision) == (None, 3)
        assert votes.votes_of(session, person.id, [reply.id]) == {}
        log = [
            (e.action, e.label, e.revision) for e in session.exec(select(VoteEvent).order_by(VoteEvent.id))
        ]
        assert log == [("cast", True, 1), ("change", False, 2), ("clear", None, 3)]
        assert votes.count_votes(session) == votes.VoteCounts(0, 0)


def test_a_rolled_back_vote_leaves_no_trace(database: Database) -> None:
    with database.write() as session:
        person, _, reply = add_person_with_reply(session)

    def vote_and_fail() -> None:
        with database.write() as session:
            votes.cast_vote(session, user_id=person.id, message_id=reply.id, label=True)
            raise RuntimeError("after the vote")

    with pytest.raises(RuntimeError, match="after the vote"):
        vote_and_fail()
    with database.read() as session:
        assert session.exec(select(Vote)).all() == []
        assert votes.latest_event_id(session) == 0


def test_votes_that_must_be_refused(database: Database) -> None:
    with database.write() as session:
        person, chat, reply = add_person_with_reply(session)
        stranger, _, _ = add_person_with_reply(session)
        question = chats.path_to(session, reply.id)[0]
        unfinished = add_reply(session, chat, state="streaming")
    refused = [
        (person.id, question.id, True, InvalidInput, "only replies"),
        (stranger.id, reply.id, True, NotAllowed, "Only the person"),
        (person.id, unfinished.id, True, Conflict, "still being written"),
        (person.id, new_id(), True, NotFound, "no message"),
        (person.id, "' OR 1=1", True, NotFound, "no message"),
        (person.id, reply.id, "yes", InvalidInput, "'yes'"),
        (person.id, reply.id, 1, InvalidInput, "true"),
    ]
    for user_id, message_id, label, error, words in refused:
        with pytest.raises(error, match=words), database.write() as session:
            votes.cast_vote(session, user_id=user_id, message_id=message_id, label=label)  # type: ignore[arg-type]
    with database.read() as session:
        assert votes.latest_event_id(session) == 0


def test_many_votes_at_once_are_all_kept_and_none_is_doubled(database: Database) -> None:
    with database.write() as session:
        person, chat, reply = add_person_with_reply(session)
        replies = [reply] + [add_reply(session, chat) for _ in range(7)]

    def vote(offset: int) -> None:
        for step in range(8):
            with database.write() as session:
                chosen = replies[(offset + step) % 8]
                votes.cast_vote(session, user_id=person.id, message_id=chosen.id, label=True)

    at_once(partial(vote, offset) for offset in range(8))
    with database.read() as session:
        assert votes.count_votes(session) == votes.VoteCounts(up=8, down=0)
        assert len(session.exec(select(VoteEvent)).all()) == 8


def test_counts_leave_out_deleted_chats_and_chats_without_consent(database: Database) -> None:
    with database.write() as session:
        for label in (True, True, False):
            _, chat, _ = add_person_with_reply(session, label=label)
        delete_chat(session, chat.id)
    with database.read() as session:
        assert votes.count_votes(session) == votes.VoteCounts(up=2, down=0)
        assert votes.count_by_source(session) == {"web": votes.VoteCounts(up=2, down=0)}
        assert votes.count_voters(session, sources=["web"]) == votes.count_voters(session) > 0
        assert votes.count_voters(session, sources=["import:kto"]) == 0
        assert votes.count_voters(session, sources=[]) == 0
