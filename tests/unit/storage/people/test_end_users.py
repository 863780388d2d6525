"""End users of an application: people of their own, known by a keyed hash, on both engines."""

import threading

import pytest
from sqlmodel import Session, select

from storage.chats import chats, signals, votes
from storage.db.database import Database
from storage.db.tables import Chat, Message, User, Vote
from storage.errors import NotAllowed, NotFound
from storage.examples import example
from storage.examples.filters import ExampleFilter
from storage.files.installation_key import pseudonym
from storage.people import users
from storage.people.end_users import ensure_end_user, find_end_user
from storage.privacy import erasure
from storage.privacy.quarantine import set_quarantine
from tests.support.rows import add_reply
from tests.support.threads import at_once

SALT = b"s" * 32


def reply_for(session: Session, app_id: str, name: str) -> tuple[str, Message]:
    person = ensure_end_user(session, app_id, name, salt=SALT)
    chat = chats.create_chat(session, person.id, source="openai")
    return person.id, add_reply(session, chat)


def voters(session: Session) -> list[str]:
    latest = votes.latest_event_id(session)
    return [one.user_id for one in example.Examples(session, latest, ExampleFilter()).iterate()]


def test_an_end_user_is_one_person_for_each_application_and_their_name_is_not_stored(
    database: Database,
) -> None:
    with database.write() as session:
        app, other = users.create_user(session, "app"), users.create_user(session, "other")
        ann = ensure_end_user(session, app.id, "ann@example.com", salt=SALT)
        assert ensure_end_user(session, app.id, "ann@example.com", salt=SALT).id == ann.id
        strangers = [
            ensure_end_user(session, app.id, "bob", salt=SALT),
            ensure_end_user(session, other.id, "ann@example.com", salt=SALT),
        ]
        assert len({ann.id, *(person.id for person in strangers)}) == 3
        assert find_end_user(session, app.id, "ann@example.com", salt=b"t" * 32) is None
        assert users.find_person(session, "app/ann@example.com", salt=SALT).id == ann.id
        assert users.find_person(session, pseudonym(SALT, ann.id), salt=SALT).id == ann.id
        for nobody in ("app/eve", "nobody/bob", "ann@example.com"):
            with pytest.raises(NotFound):
                users.find_person(session, nobody, salt=SALT)
        rows = session.exec(select(User).where(User.app_id == app.id)).all()
        assert "ann@" not in str([row.model_dump() for row in rows])
        assert [user.name for user in users.list_users(session)] == ["app", "other"]


def test_an_end_user_who_is_named_by_two_requests_at_once_is_one_person(database: Database) -> None:
    with database.write() as session:
        app_id = users.create_user(session, "app").id
    ready = threading.Barrier(4)

    def name_them() -> str:
        ready.wait()
        with database.write() as session:
            return ensure_end_user(session, app_id, "ann", salt=SALT).id

    found = at_once([name_them] * 4)
    assert len(set(found)) == 1


def test_an_application_votes_for_its_end_users_and_for_nobody_elses(database: Database) -> None:
    with database.write() as session:
        app, other = users.create_user(session, "app"), users.create_user(session, "other")
        ann, reply = reply_for(session, app.id, "ann")
        _, foreign = reply_for(session, other.id, "ann")
        vote = votes.cast_vote(session, user_id=app.id, message_id=reply.id, label=True)
        assert (vote.user_id, vote.revision) == (ann, 1)
        assert votes.cast_vote(session, user_id=app.id, message_id=reply.id, label=True).revision == 1
        assert votes.get_vote(session, user_id=app.id, message_id=reply.id).label is True
        signal = signals.record_signal(session, user_id=app.id, message_id=reply.id, kind="copied")
        assert signal.user_id == ann
        with pytest.raises(NotAllowed):
            votes.cast_vote(session, user_id=app.id, message_id=foreign.id, label=True)
        with pytest.raises(NotAllowed):
            signals.record_signal(session, user_id=app.id, message_id=foreign.id, kind="copied")
        cleared = votes.clear_vote(session, user_id=app.id, message_id=reply.id)
        assert (cleared.user_id, cleared.revision) == (ann, 2)
        assert [row.user_id for row in session.exec(select(Vote))] == [ann]


def test_end_users_count_as_people_of_their_own(database: Database) -> None:
    with database.write() as session:
        app = users.create_user(session, "app")
        for name in ("ann", "ann", "bob"):
            _, reply = reply_for(session, app.id, name)
            votes.cast_vote(session, user_id=app.id, message_id=reply.id, label=True)
        assert votes.count_voters(session) == 2
        assert len(set(voters(session))) == 2


def test_one_end_user_is_set_aside_alone_and_all_with_their_application(database: Database) -> None:
    with database.write() as session:
        app = users.create_user(session, "app")
        people = {}
        for name in ("ann", "bob"):
            people[name], reply = reply_for(session, app.id, name)
            votes.cast_vote(session, user_id=app.id, message_id=reply.id, label=True)
        assert set_quarantine(session, people["ann"], True, by="admin").votes == 1
        assert voters(session) == [people["bob"]]
        assert set_quarantine(session, app.id, True, by="admin").votes == 1
        assert voters(session) == []
        _, late = reply_for(session, app.id, "carl")
        assert votes.cast_vote(session, user_id=app.id, message_id=late.id, label=True).quarantined
        assert set_quarantine(session, app.id, False, by="admin").votes == 3
        assert len(voters(session)) == 3


def test_erasing_an_end_user_leaves_the_others_and_the_name_free(database: Database) -> None:
    with database.write() as session:
        app = users.create_user(session, "app")
        ann, reply = reply_for(session, app.id, "ann")
        bob, kept = reply_for(session, app.id, "bob")
        for message in (reply, kept):
            votes.cast_vote(session, user_id=app.id, message_id=message.id, label=True)
        report = erasure.erase_user(session, ann, by="app")
        assert (report.chats, report.messages, report.votes) == (1, 2, 1)
        assert voters(session) == [bob]
        with pytest.raises(NotFound):
            votes.cast_vote(session, user_id=app.id, message_id=reply.id, label=True)
        assert find_end_user(session, app.id, "ann", salt=SALT) is None
        assert ensure_end_user(session, app.id, "ann", salt=SALT).id != ann


def test_erasing_an_application_erases_its_end_users(database: Database) -> None:
    with database.write() as session:
        app = users.create_user(session, "app")
        ann, reply = reply_for(session, app.id, "ann")
        votes.cast_vote(session, user_id=app.id, message_id=reply.id, label=True)
        chats.create_chat(session, app.id, title="Its own")
        assert erasure.preview_user(session, app.id).chats == 2
        report = erasure.erase_user(session, app.id, by="admin")
        assert (report.chats, report.votes) == (2, 1)
        person = users.get_user(session, ann)
        assert (person.app_key, person.disabled, person.erased_at is not None) == (None, True, True)
        assert all(chat.deleted_at is not None for chat in session.exec(select(Chat)))
        assert voters(session) == []
