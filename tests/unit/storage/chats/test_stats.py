"""Rates with their intervals, on both engines."""

from datetime import timedelta

import pytest

from storage.chats import stats, votes
from storage.chats.votes import VoteCounts
from storage.db.database import Database
from storage.db.tables import now
from storage.privacy.consent import delete_chat
from tests.support.rows import add_person_with_reply, add_reply


def test_rates_per_version_tags_and_days(database: Database) -> None:
    with database.write() as session:
        for index in range(4):
            tags = ["wrong"] if index == 0 else []
            person, chat, reply = add_person_with_reply(session, label=index > 0, tags=tags)
            add_reply(session, chat, "And?", "unrated")
        # What is said after the thumb is no other vote, and what is taken back is none.
        last = {"user_id": person.id, "message_id": reply.id}
        votes.cast_vote(session, **last, label=True, comment="Good.")
        votes.clear_vote(session, user_id=person.id, message_id=reply.id)
        # Neither what is deleted nor what was imported is among them.
        for change in ("deleted", "imported"):
            person, chat, reply = add_person_with_reply(session, label=True, tags=["wrong"])
            if change == "deleted":
                delete_chat(session, chat.id)
            else:
                chat.source = "import:kto"
                session.add(chat)
    with database.read() as session:
        (v1,) = stats.version_stats(session)
        assert (v1.version, v1.replies, v1.up, v1.down) == ("v1", 8, 2, 1)
        assert (v1.approval, v1.vote_rate) == (pytest.approx(2 / 3), pytest.approx(3 / 8))
        assert not v1.enough_votes
        assert stats.tag_counts(session) == {"wrong": VoteCounts(0, 1)}
        days = stats.daily_votes(session, days=7)
    assert len(days) == 7
    assert days[-1] == stats.DayStats(now().date(), up=2, down=1)
    assert sum(day.up + day.down for day in days[:-1]) == 0


def test_a_narrow_interval_counts_as_enough() -> None:
    assert stats.VersionStats("v1", replies=200, up=90, down=10).enough_votes
    assert stats.VersionStats("v1", replies=0, up=0, down=0).approval is None


def test_failed_replies_are_those_since_a_moment(database: Database) -> None:
    with database.write() as session:
        _, chat, _ = add_person_with_reply(session)
        add_reply(session, chat, state="failed")
    with database.read() as session:
        assert stats.failed_replies(session, now() - timedelta(hours=1)) == (1, 2)
        assert stats.failed_replies(session, now() + timedelta(hours=1)) == (0, 0)
