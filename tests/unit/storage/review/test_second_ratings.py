"""Second ratings and Cohen's κ, on both engines."""

import pytest
from sklearn.metrics import cohen_kappa_score
from sqlmodel import Session

from storage.db.database import Database
from storage.errors import InvalidInput, NotFound
from storage.people import users
from storage.privacy.erasure import erase_user
from storage.review.second_ratings import Agreement, agreement, rate, rate_all
from storage.review.voted_replies import get_voted_reply
from tests.support.rows import add_person_with_reply, audit_events, vote_on

VOTED = [True, True, True, False, False, True, False, True]
RATED = [True, False, True, False, True, True, False, True]


def voted(session: Session, label: bool) -> str:
    _, _, reply = add_person_with_reply(session, label=label)
    return vote_on(session, reply.id).id


def test_kappa_is_scikit_learns(database: Database) -> None:
    with database.write() as session:
        assert agreement(session) == Agreement(0, 0, None)
        ada = users.create_user(session, "ada").id
        for label, rating in zip(VOTED, RATED, strict=True):
            rate(session, voted(session, label), by=ada, label=rating, note=None)
        rate(session, voted(session, True), by=ada, label=None, note="Not a rating.")
        found = agreement(session)
    assert (found.ratings, found.agreed) == (8, 6)
    assert found.kappa == pytest.approx(cohen_kappa_score(VOTED, RATED))


def test_where_both_say_one_thing_there_is_no_kappa(database: Database) -> None:
    with database.write() as session:
        ada = users.create_user(session, "ada").id
        for _ in range(3):
            rate(session, voted(session, True), by=ada, label=True, note=None)
        assert agreement(session) == Agreement(3, 3, None)


def test_a_rating_is_replaced_and_removed_and_goes_with_its_vote(database: Database) -> None:
    with database.write() as session:
        ada, ben = (users.create_user(session, name).id for name in ("ada", "ben"))
        person, _, reply = add_person_with_reply(session, label=True)
        vote_id = vote_on(session, reply.id).id
        rate(session, vote_id, by=ada, label=False, note="  Wrong. ")
        rate(session, vote_id, by=ada, label=True, note="Right.")
        rate(session, vote_id, by=ben, label=False, note=None)
        reviews = get_voted_reply(session, vote_id).reviews
        assert [(one.by, one.label, one.note) for one in reviews] == [
            (ada, True, "Right."),
            (ben, False, None),
        ]
        for _ in range(2):  # the second time there is none to remove
            assert rate(session, vote_id, by=ben, label=None, note=" ") is None
        assert [event.actor for event in audit_events(session)].count(ben) == 2
        assert len(get_voted_reply(session, vote_id).reviews) == 1
        other = voted(session, True)
        assert rate_all(session, [vote_id, other], by=ada, label=False) == [other]
        assert get_voted_reply(session, other).reviews[0].label is False
        assert rate_all(session, [other], by=ben) == []
        assert rate_all(session, [other], by=ada) == [other]
        assert get_voted_reply(session, other).reviews == ()
        with pytest.raises(NotFound, match="no vote nothing"):
            rate_all(session, ["nothing"], by=ada, label=True)
        with pytest.raises(NotFound, match="no vote nothing"):
            rate(session, "nothing", by=ada, label=True, note=None)
        with pytest.raises(InvalidInput, match="note"):
            rate(session, vote_id, by=ada, label=True, note="\x00")
        erase_user(session, person.id, by=ada)
        assert agreement(session) == Agreement(0, 0, None)
