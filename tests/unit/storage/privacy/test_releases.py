"""What an admin releases from the guard, and the list of what it set aside, on both engines."""

import pytest

from storage.db.database import Database
from storage.db.ids import new_id
from storage.db.tables import now
from storage.errors import Conflict, NotFound
from storage.people import users
from storage.people.end_users import ensure_end_user
from storage.privacy import erasure
from storage.privacy.releases import open_releases, release, released_at, withdraw
from storage.registry.set_aside import (
    Reason,
    count_set_aside,
    keep_set_aside,
    list_set_aside,
    people_set_aside,
)
from storage.registry.training_runs import request_run
from tests.support.rows import add_person_with_reply, add_reply, audit_events


def test_a_release_counts_from_its_moment_until_it_is_withdrawn(database: Database) -> None:
    with database.write() as session:
        ada, _, reply = add_person_with_reply(session, label=True)
        bob, _, _ = add_person_with_reply(session, label=True)
        before = now()
        vote = release(session, ada.id, reply.id, by="admin", reason="I know her.")
        person = release(session, bob.id, by="admin")
        assert release(session, bob.id, by="admin").id == person.id, "once"
        since = now()
        withdraw(session, person.id, by="admin")
        with pytest.raises(Conflict, match="already"):
            withdraw(session, person.id, by="admin")
    with database.read() as session:
        assert released_at(session, before) == (set(), set())
        assert released_at(session, since) == ({bob.id}, {(reply.id, ada.id)}), "what a run began with stays"
        assert released_at(session, now()) == (set(), {(reply.id, ada.id)})
        assert [one.id for one in open_releases(session)] == [vote.id]
        audited = [(event.action, event.target) for event in audit_events(session)]
    assert audited == [
        ("withdraw release from guard", bob.id),
        ("release from guard", bob.id),
        ("release from guard", ada.id),
    ]


def test_releasing_an_application_releases_its_end_users(database: Database) -> None:
    with database.write() as session:
        application = users.create_user(session, "shop")
        first = ensure_end_user(session, application.id, "4711", salt=b"s")
        release(session, application.id, by="admin")
        later = ensure_end_user(session, application.id, "4712", salt=b"s")
        assert released_at(session, now())[0] == {application.id, first.id, later.id}


def test_only_what_exists_is_released(database: Database) -> None:
    with database.write() as session:
        ada, _, reply = add_person_with_reply(session, label=True)
        bob, _, _ = add_person_with_reply(session)
        for user, message in ((new_id(), None), (bob.id, reply.id), (ada.id, new_id())):
            with pytest.raises(NotFound):
                release(session, user, message, by="admin")
        with pytest.raises(NotFound):
            withdraw(session, new_id(), by="admin")
        erasure.erase_user(session, bob.id, by="admin")
        with pytest.raises(Conflict, match="erased"):
            release(session, bob.id, by="admin")


def test_the_newest_run_s_list_replaces_the_one_before_and_forgets_erased_people(database: Database) -> None:
    phrase = Reason("a phrase that few people push", "visit acme deals")
    with database.write() as session:
        ada, chat, first = add_person_with_reply(session, label=True)
        second = add_reply(session, chat, label=True)
        bob, _, third = add_person_with_reply(session, label=False)
        run = request_run(session, trigger="cli").id
        keep_set_aside(session, run, [(third.id, bob.id, Reason("old", ""))])
        votes = [
            (first.id, ada.id, phrase),
            (second.id, ada.id, phrase),
            (third.id, bob.id, Reason("new", "")),
        ]
        keep_set_aside(session, run, [*votes, votes[0]])
        assert count_set_aside(session) == 3
        pages = [list_set_aside(session, limit=2)]
        pages.append(list_set_aside(session, limit=2, before=pages[0][-1].id))
        assert {one.message_id for page in pages for one in page} == {first.id, second.id, third.id}
        assert [len(page) for page in pages] == [2, 1]
        one, other = people_set_aside(session)
        assert (one.user_id, one.votes, one.phrases) == (ada.id, 2, ["visit acme deals"])
        assert (other.user_id, other.reasons) == (bob.id, {"new": 1})
        erasure.erase_user(session, ada.id, by="admin")
        assert [one.user_id for one in people_set_aside(session)] == [bob.id]
