"""People who are set aside: their votes stay, and train, count and export nothing, on both engines."""

from pathlib import Path

import pytest
from sqlmodel import Session, select

from storage.chats import stats, votes
from storage.db.database import Database
from storage.db.ids import new_id
from storage.db.tables import Vote, VoteEvent
from storage.errors import Conflict, NotFound
from storage.examples.example import Examples
from storage.examples.filters import ExampleFilter
from storage.files.installation_key import load_secret
from storage.people import users
from storage.privacy import erasure
from storage.privacy.quarantine import set_excluded, set_quarantine
from tests.support.rated_store import exported_lines
from tests.support.rows import add_person_with_reply, add_reply, audit_events, vote_on


def voters_in(session: Session, snapshot: int, quarantined: str = "no") -> list[str]:
    wanted = ExampleFilter(quarantined=quarantined)  # type: ignore[arg-type]
    return [example.user_id for example in Examples(session, snapshot, wanted).iterate()]


def test_a_quarantined_person_leaves_training_counts_and_exports_and_comes_back(
    database: Database, tmp_path: Path
) -> None:
    salt = load_secret(tmp_path)
    with database.write() as session:
        good, _, _ = add_person_with_reply(session, label=True)
        bad, chat, spam = add_person_with_reply(session)
        taken_back, later = add_reply(session, chat), add_reply(session, chat)
        votes.cast_vote(session, user_id=bad.id, message_id=spam.id, label=False, tags=["wrong"], comment="c")
        votes.cast_vote(session, user_id=bad.id, message_id=taken_back.id, label=True)
        votes.clear_vote(session, user_id=bad.id, message_id=taken_back.id)
        before = votes.latest_event_id(session)
        exported = exported_lines(session, before, salt)
        report = set_quarantine(session, bad.id, True, by="admin", reason="poison")
        assert (report.quarantined, report.votes) == (True, 1)
        assert set_quarantine(session, bad.id, True, by="admin").votes == 0
        votes.cast_vote(session, user_id=bad.id, message_id=later.id, label=False)
    with database.read() as session:
        after = votes.latest_event_id(session)
        assert voters_in(session, after) == [good.id]
        assert voters_in(session, after, "only") == [bad.id, bad.id]
        assert len(voters_in(session, after, "any")) == 3
        assert exported_lines(session, before, salt) == exported
        assert len(exported) == 2
        assert votes.count_votes(session) == votes.VoteCounts(up=1, down=0)
        assert votes.count_voters(session) == 1
        assert votes.count_events_after(session, before) == 0
        (version,) = stats.version_stats(session)
        assert (version.replies, version.up, version.down) == (4, 1, 0)
        assert stats.tag_counts(session) == {}
        assert (stats.daily_votes(session)[-1].up, stats.daily_votes(session)[-1].down) == (1, 0)
        assert len(votes.votes_of(session, bad.id, [spam.id, later.id])) == 2  # they see their votes still
    with database.write() as session:
        assert set_quarantine(session, bad.id, False, by="admin").votes == 2
    with database.read() as session:
        assert voters_in(session, votes.latest_event_id(session)) == [good.id, bad.id, bad.id]
        assert voters_in(session, after) == [good.id]
        assert votes.count_votes(session) == votes.VoteCounts(up=1, down=2)
        assert stats.daily_votes(session)[-1].down == 2
        log = session.exec(select(VoteEvent).where(VoteEvent.message_id == spam.id).order_by(VoteEvent.id))
        events = list(log)
        assert [(e.action, e.quarantined, e.revision) for e in events] == [
            ("cast", False, 1),
            ("quarantine", True, 2),
            ("release", False, 3),
        ]
        assert {(e.label, *e.tags, e.comment, e.created_at) for e in events} == {
            (False, "wrong", "c", events[0].created_at)
        }
        assert [event.action for event in audit_events(session)] == ["release", "quarantine"]
        assert audit_events(session)[1].detail == {"votes": 1, "reason": "poison"}


def test_a_quarantined_vote_is_erased_like_any_other(database: Database) -> None:
    with database.write() as session:
        bad, _, _ = add_person_with_reply(session, label=False, comment="secret")
        set_quarantine(session, bad.id, True, by="admin")
        erasure.erase_user(session, bad.id, by="admin")
        with pytest.raises(Conflict, match="erased"):
            set_quarantine(session, bad.id, False, by="admin")
        with pytest.raises(NotFound):
            set_quarantine(session, new_id(), True, by="admin")
    with database.read() as session:
        assert session.exec(select(Vote)).all() == []
        for event in session.exec(select(VoteEvent)):
            assert (event.action, event.label, event.comment) == ("erase", None, None)
        assert users.get_user(session, bad.id).quarantined


def test_an_excluded_vote_stays_out_whatever_its_person_or_the_admin_of_people_does(
    database: Database,
) -> None:
    with database.write() as session:
        good, _, kept = add_person_with_reply(session, label=True)
        person, chat, spam = add_person_with_reply(session, label=True)
        other = add_reply(session, chat, label=False)
        vote_id = vote_on(session, spam.id).id
        before = votes.latest_event_id(session)
        assert set_excluded(session, [vote_id], True, by="admin", reason="off topic") == 1
        assert set_excluded(session, [vote_id], True, by="admin") == 0
        assert votes.count_votes(session) == votes.VoteCounts(up=1, down=1)
        votes.clear_vote(session, user_id=person.id, message_id=spam.id)
        votes.cast_vote(session, user_id=person.id, message_id=spam.id, label=False)
        set_quarantine(session, person.id, True, by="admin")
        assert set_quarantine(session, person.id, False, by="admin").votes == 1  # the other one
        assert votes.count_votes(session) == votes.VoteCounts(up=1, down=1)
        assert voters_in(session, before) == [good.id, person.id, person.id]
        with pytest.raises(NotFound, match="no vote nothing"):
            set_excluded(session, ["nothing", vote_on(session, kept.id).id], True, by="admin")
    with database.read() as session:
        after = votes.latest_event_id(session)
        assert [example.message_id for example in Examples(session, after).iterate()] == [kept.id, other.id]
    with database.write() as session:
        set_quarantine(session, person.id, True, by="admin")
        assert set_excluded(session, [vote_id], False, by="admin") == 1
        assert votes.count_votes(session) == votes.VoteCounts(up=1, down=0)  # the person is quarantined
        set_quarantine(session, person.id, False, by="admin")
        assert votes.count_votes(session) == votes.VoteCounts(up=1, down=2)
        actions = [(event.action, event.target) for event in audit_events(session)]
        assert actions.count(("exclude vote", vote_id)) == actions.count(("include vote", vote_id)) == 1
