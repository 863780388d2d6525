"""A thumb for a whole chat: spread over its replies, stored and exported as such, and taken back."""

from pathlib import Path

import pytest

from storage.chats import chat_votes, stats, votes
from storage.db.database import Database
from storage.errors import Conflict, NotAllowed
from storage.examples.example import Examples
from storage.exports.exporter import Export
from storage.exports.plan import ExportPlan
from storage.privacy.quarantine import set_quarantine
from tests.support.odd_conversations import comes_back, what_was_said
from tests.support.rated_store import SALT
from tests.support.rows import add_person_with_reply, add_reply


def shares(database: Database) -> list[tuple[bool, float | None]]:
    with database.read() as session:
        return [(one.label, one.share) for one in Examples(session, 10**9).iterate()]


def test_each_reply_without_a_vote_of_its_own_gets_a_share(database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        person, chat, first = add_person_with_reply(session)
        replies = [first.id, *(add_reply(session, chat, f"Q{n}", f"A{n}").id for n in range(4))]
        votes.cast_vote(session, user_id=person.id, message_id=replies[1], label=False)
        cast = chat_votes.cast_chat_vote(session, user_id=person.id, chat_id=chat.id, label=True)
        assert cast == chat_votes.ChatVote(chat.id, True, [replies[0], *replies[2:]], 1 / 4)
        assert chat_votes.chat_vote(session, user_id=person.id, chat_id=chat.id) == cast
        before = votes.latest_event_id(session)
        again = chat_votes.cast_chat_vote(session, user_id=person.id, chat_id=chat.id, label=True)
        assert (again, votes.latest_event_id(session)) == (cast, before)
    assert shares(database) == [(False, None), *[(True, 1 / 4)] * 4]
    with database.read() as session:  # a vote on a whole chat is one vote
        (of_version,) = stats.version_stats(session)
        day = stats.daily_votes(session)[-1]
        export = Export(session, ExportPlan(), salt=SALT)
        list(export.chunks())
        for found in (votes.count_votes(session), of_version, day):
            assert (found.up, found.down) == (1, 1)
    counts = export.manifest()
    assert (counts["votes"], counts["labels"]) == ({"up": 1, "down": 1}, {"up": 4, "down": 1})
    assert b'"share": 0.25' in what_was_said(database, "kto")
    for shape in ("kto", "swift"):
        comes_back(database, tmp_path, shape)

    with database.write() as session:  # a vote on the reply itself takes the place of its share
        votes.cast_vote(session, user_id=person.id, message_id=replies[0], label=True)
        assert len(chat_votes.chat_vote(session, user_id=person.id, chat_id=chat.id).message_ids) == 3
        changed = chat_votes.cast_chat_vote(session, user_id=person.id, chat_id=chat.id, label=False)
        assert (changed.message_ids, changed.share) == (replies[2:], 1 / 3)
        set_quarantine(session, person.id, True, by="root")
        set_quarantine(session, person.id, False, by="root")
    assert sorted(shares(database), key=str) == [*[(False, 1 / 3)] * 3, (False, None), (True, None)]

    with database.write() as session:
        cleared = chat_votes.clear_chat_vote(session, user_id=person.id, chat_id=chat.id)
        assert (cleared.label, cleared.message_ids, cleared.share) == (None, [], None)
    assert sorted(shares(database), key=str) == [(False, None), (True, None)]
    assert b"share" not in what_was_said(database, "kto")


def test_chats_that_cannot_be_voted_on(database: Database) -> None:
    with database.write() as session:
        person, chat, reply = add_person_with_reply(session)
        stranger, _, _ = add_person_with_reply(session)
        votes.cast_vote(session, user_id=person.id, message_id=reply.id, label=True)
        with pytest.raises(Conflict, match="has a vote of its own"):
            chat_votes.cast_chat_vote(session, user_id=person.id, chat_id=chat.id, label=True)
        with pytest.raises(NotAllowed, match="somebody else"):
            chat_votes.cast_chat_vote(session, user_id=stranger.id, chat_id=chat.id, label=True)
