"""Consent: withdrawn, a chat trains and exports nothing more, and what was trained on it says so."""

from pathlib import Path

import pytest
from sqlmodel import Session

from storage.chats import chats, votes
from storage.db.database import Database
from storage.db.tables import Chat, Message, ModelVersion, User
from storage.errors import NotAllowed, NotFound
from storage.privacy import consent, erasure
from storage.registry import model_versions
from storage.registry.lineage import count_lost
from tests.support.rated_store import exported_lines
from tests.support.rows import add_person_with_reply, add_reply, audit_events, publish_candidate

SALT = b"s" * 32


def add_voted_chats(session: Session) -> tuple[User, Chat, Message, Message, User, Message]:
    """A person, their chat and its two voted replies; another person and the voted reply of theirs."""
    person, chat, first = add_person_with_reply(session)
    second = add_reply(session, chat, "2", "two")
    other, _, kept = add_person_with_reply(session)
    for who, reply in ((person, first), (person, second), (other, kept)):
        votes.cast_vote(session, user_id=who.id, message_id=reply.id, label=True)
    return person, chat, first, second, other, kept


def publish(database: Database, used: list[tuple[str, str]], continued_from: str | None = None) -> str:
    """A version trained on these votes, perhaps from another one on; its id."""
    with database.write() as session:
        version = publish_candidate(session, used, continued_from=continued_from)
        count_lost(session, version)
        return version.id


def lost(database: Database) -> dict[str, int]:
    with database.read() as session:
        return {v.name: v.erased_votes for v in model_versions.list_versions(session) if v.kind != "base"}


def test_withdrawn_consent_ends_training_and_exports_and_marks_versions(
    database: Database, tmp_path: Path
) -> None:
    with database.write() as session:
        person, chat, first, second, other, kept = add_voted_chats(session)
        snapshot = votes.latest_event_id(session)
    publish(database, [(first.id, person.id), (kept.id, other.id)])
    publish(database, [(kept.id, other.id)])
    assert lost(database) == {"v3": 0, "v2": 0}

    with database.write() as session:
        found = session.get_one(type(chat), chat.id)
        assert consent.set_consent(session, found, False, by="ada") == ["v2"]
        assert consent.set_consent(session, found, False, by="ada") == []  # nothing new
    assert lost(database) == {"v3": 0, "v2": 1}
    with database.read() as session:
        assert votes.count_votes(session) == votes.VoteCounts(1, 0)
        assert len(exported_lines(session, snapshot)) == 1
        event = audit_events(session)[0]
        assert (event.actor, event.action, event.target) == ("ada", "withdraw_consent", chat.id)
        assert event.detail == {"affected_versions": ["v2"]}
    publish(database, [(second.id, person.id)])  # its training had begun before
    assert lost(database) == {"v4": 1, "v3": 0, "v2": 1}

    with database.write() as session:
        assert consent.set_consent(session, session.get_one(type(chat), chat.id), True, by="ada") == []
    assert lost(database) == {"v4": 0, "v3": 0, "v2": 0}
    with database.read() as session:
        assert len(exported_lines(session, snapshot)) == 3


def test_votes_without_consent_that_are_erased_too_count_once(database: Database) -> None:
    with database.write() as session:
        person, chat, reply = add_person_with_reply(session, label=True)
    publish(database, [(reply.id, person.id)])
    with database.write() as session:
        consent.set_consent(session, session.get_one(type(chat), chat.id), False, by="ada")
        assert erasure.preview_user(session, person.id).affected_versions == ["v2"]
        assert session.get_one(ModelVersion, model_versions.get_version(session, "v2").id).erased_votes == 1
        assert erasure.erase_user(session, person.id, by="ada").affected_versions == ["v2"]
    assert lost(database) == {"v2": 1}


def test_a_version_that_was_continued_from_another_remembers_what_that_one_learned(
    database: Database,
) -> None:
    with database.write() as session:
        people = [add_person_with_reply(session) for _ in range(3)]
        for person, _, reply in people:
            votes.cast_vote(session, user_id=person.id, message_id=reply.id, label=True)
    keys = [(reply.id, person.id) for person, _, reply in people]
    first = publish(database, keys[:1])
    second = publish(database, keys[1:2], continued_from=first)
    publish(database, keys[2:], continued_from=second)
    publish(database, keys[2:])  # fresh: it learned from that vote alone
    with database.write() as session:
        preview = erasure.preview_user(session, people[0][0].id)
        assert preview.affected_versions == ["v2", "v3", "v4"]
        assert consent.set_consent(session, session.get_one(Chat, people[1][1].id), False, by="ada") == [
            "v3",
            "v4",
        ]
    assert lost(database) == {"v5": 0, "v4": 1, "v3": 1, "v2": 0}
    with database.write() as session:
        report = erasure.erase_user(session, people[0][0].id, by="ada")
        assert report.affected_versions == ["v2", "v3", "v4"]
    assert lost(database) == {"v5": 0, "v4": 2, "v3": 2, "v2": 1}
    publish(database, keys[2:], continued_from=second)
    assert lost(database)["v6"] == 2, "what was lost before it was made counts too"


def test_a_deleted_chat_comes_back_with_its_votes_until_it_is_erased(database: Database) -> None:
    with database.write() as session:
        person, chat, first, _, other, _ = add_voted_chats(session)
    publish(database, [(first.id, person.id)])
    with database.write() as session:
        consent.delete_chat(session, chat.id)
    with pytest.raises(NotAllowed), database.write() as session:
        consent.restore_chat(session, chat.id, other.id)
    assert lost(database) == {"v2": 1}
    with database.write() as session:
        consent.restore_chat(session, chat.id, person.id)
        assert [one.id for one in chats.list_chats(session, person.id)] == [chat.id]
    assert lost(database) == {"v2": 0}
    with database.write() as session:
        consent.delete_chat(session, chat.id)
        erasure.erase_user(session, person.id, by="ada")
    with pytest.raises(NotFound), database.write() as session:
        consent.restore_chat(session, chat.id, person.id)


def test_deleting_a_chat_marks_the_versions_that_learned_from_it(database: Database) -> None:
    with database.write() as session:
        person, chat, first, second, other, kept = add_voted_chats(session)
    publish(database, [(first.id, person.id), (kept.id, other.id)])
    publish(database, [(kept.id, other.id)])
    with database.write() as session:
        assert consent.delete_chat(session, chat.id) == ["v2"]
    assert lost(database) == {"v3": 0, "v2": 1}
    publish(database, [(second.id, person.id)])  # its training had begun before
    assert lost(database) == {"v4": 1, "v3": 0, "v2": 1}
