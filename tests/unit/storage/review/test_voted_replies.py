"""The list of votes: order, pages, filters, search, and why training does not use one; on both engines."""

from typing import Any

import pytest
from sqlmodel import Session

from storage.chats import chats, votes
from storage.db.database import Database
from storage.db.tables import Vote
from storage.errors import NotFound
from storage.privacy.consent import delete_chat, set_consent
from storage.privacy.quarantine import set_excluded, set_quarantine
from storage.registry import model_versions
from storage.registry.set_aside import Reason
from storage.review.second_ratings import rate
from storage.review.voted_replies import (
    VotedReply,
    VoteFilter,
    conversation,
    get_voted_reply,
    list_votes,
)
from tests.support.rows import add_person_with_reply, add_set_aside, publish_candidate, vote_on


def found(session: Session, **filter: Any) -> list[VotedReply]:
    page = list_votes(session, VoteFilter(**filter), limit=100)
    assert (page.matching, page.next, page.complete) == (len(page.votes), None, True)
    return page.votes


def ask(session: Session, question: str, reply: str, label: bool, **vote: Any) -> tuple[str, Vote]:
    """The person's id and their vote."""
    person, _, message = add_person_with_reply(session, question=question, answer=reply, label=label, **vote)
    return person.id, vote_on(session, message.id)


def test_the_newest_come_first_and_pages_join(database: Database) -> None:
    with database.write() as session:
        made = [ask(session, f"q{n}", f"r{n}", n % 2 == 0)[1].id for n in range(5)]
    with database.read() as session:
        everything = VoteFilter()
        first = list_votes(session, everything, limit=2)
        rest = list_votes(session, everything, limit=3, before=first.next)
        assert [vote.id for vote in first.votes + rest.votes] == made[::-1]
        assert [(vote.question, vote.reply, vote.label) for vote in first.votes] == [
            ("q4", "r4", True),
            ("q3", "r3", False),
        ]
        assert (first.matching, rest.next) == (5, None)


def test_a_search_goes_on_where_it_had_looked_at_enough(database: Database) -> None:
    with database.write() as session:
        made = [ask(session, f"q{n}", f"r{n}", n != 1)[1].id for n in range(7)]
    with database.read() as session:
        down, found, before, pages = VoteFilter(label=False), [], None, 0
        while pages == 0 or before is not None:
            page = list_votes(session, down, limit=9, before=before, look_at=2)
            assert page.complete == (page.next is None)
            found, before, pages = [*found, *page.votes], page.next, pages + 1
        assert [vote.id for vote in found] == [made[1]]
        assert pages == 4


def test_text_is_found_in_question_reply_comment_and_correction_as_it_is_written(database: Database) -> None:
    with database.write() as session:
        ask(session, "About Paris?", "100% sure", True)
        ask(session, "q", "no", False, comment="not PARIS", tags=["wrong", "über"])
        ask(session, "q", "1000 sure", False, correction="It is in paris_1.")
    with database.read() as session:
        assert [vote.question for vote in found(session, search="paris")] == ["q", "q", "About Paris?"]
        assert [vote.reply for vote in found(session, search="0% s")] == ["100% sure"]
        assert [vote.reply for vote in found(session, search="paris_1")] == ["1000 sure"]
        assert [vote.reply for vote in found(session, tag="über")] == ["no"]
        assert found(session, tag="ber") == []
        assert [vote.reply for vote in found(session, source="correction")] == ["1000 sure"]
        assert [vote.reply for vote in found(session, has_comment=True)] == ["no"]
        assert len(found(session, label=False, search="SURE")) == 1


def test_each_vote_says_whether_training_uses_it(database: Database) -> None:
    with database.write() as session:
        _, counted = ask(session, "q", "counted", True)
        _, excluded = ask(session, "q", "excluded", True)
        set_excluded(session, [excluded.id], True, by="ada")
        bad, _ = ask(session, "q", "quarantined", True)
        set_quarantine(session, bad, True, by="ada")
        _, withheld = ask(session, "q", "withheld", True)
        chat = chats.get_chat(session, chats.get_message(session, withheld.message_id).chat_id)
        set_consent(session, chat, False, by="ada")
        add_set_aside(session, "tiny", Reason("a burst", ""))
        person, taken = ask(session, "q", "taken back", True)
        votes.clear_vote(session, user_id=person, message_id=taken.message_id)
        _, deleted = ask(session, "q", "deleted", True)
        delete_chat(session, chats.get_message(session, deleted.message_id).chat_id)
    with database.read() as session:
        assert {vote.use: vote.reply for vote in found(session)} == {
            "counts": "counted",
            "excluded": "excluded",
            "person quarantined": "quarantined",
            "no consent": "withheld",
            "set aside by the guard": "Because.",
        }
        assert [vote.set_aside for vote in found(session, use="set aside by the guard")] == ["a burst"]
        assert [vote.id for vote in found(session, use="counts")] == [counted.id]
        assert [vote.id for vote in found(session, consent="withheld")] == [withheld.id]
        for gone in (deleted.id, taken.id, "nothing"):
            with pytest.raises(NotFound, match=gone):
                get_voted_reply(session, gone)


def test_versions_people_and_second_ratings_are_filters(database: Database) -> None:
    with database.write() as session:
        base = model_versions.ensure_base(session, "tiny")
        person, _, reply = add_person_with_reply(session, label=True, version_id=base.id)
        version = publish_candidate(session, [(reply.id, person.id)])
        vote = vote_on(session, reply.id)
        rate(session, vote.id, by=person.id, label=False, note="no")
        ask(session, "q", "unrated", False, version_id=version.id)
    with database.read() as session:
        (of_person,) = found(session, user=person.id)
        assert of_person.learned_by == [version.name]
        assert [review.note for review in of_person.reviews] == ["no"]
        for filter in ({"model_version": "v1"}, {"reviewed": True}, {"disagreed": True}):
            assert [one.id for one in found(session, **filter)] == [vote.id]
        assert [one.reply for one in found(session, reviewed=False)] == ["unrated"]
        texts = [message.content for message in conversation(session, of_person)]
        assert texts == [of_person.question, of_person.reply]
