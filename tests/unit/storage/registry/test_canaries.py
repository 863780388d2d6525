"""Canaries in the database, on both engines: who is given to them, and what their votes say."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlmodel import Session

from storage.chats import chats, stats
from storage.db.database import Database
from storage.db.tables import Canary, Chat
from storage.errors import Conflict, InvalidInput, NotFound
from storage.people import users
from storage.registry import canaries, model_versions
from tests.support.databases import waiting
from tests.support.live_server import wait_until
from tests.support.rows import add_reply, add_version, audit_events, deploy, roll_back


def start(database: Database, name: str = "v2", share: float = 0.5) -> Canary:
    with database.write() as session:
        return canaries.start_canary(session, name, share=share, by="ada", why="Let us see.")


def answering(database: Database, chat: Chat) -> str:
    with database.read() as session:
        return canaries.answering_version(session, chats.get_chat(session, chat.id)).name


def begin_chats(database: Database, count: int, **how: Any) -> list[Chat]:
    with database.write() as session:
        person = users.create_anonymous(session)
        return [chats.create_chat(session, person.id, **how) for _ in range(count)]


def test_the_split_is_the_documented_hash() -> None:
    # sha256("canary:chat") begins with 41678e2e4cb889fd, which is 0.255486 of 2**64.
    assert not canaries.is_chosen("canary", "chat", 0.255486)
    assert canaries.is_chosen("canary", "chat", 0.255487)
    keys = [f"chat {number}" for number in range(4000)]
    tenth = {key for key in keys if canaries.is_chosen("one", key, 0.1)}
    half = {key for key in keys if canaries.is_chosen("one", key, 0.5)}
    other = {key for key in keys if canaries.is_chosen("two", key, 0.1)}
    assert tenth < half
    assert 340 < len(tenth) < 460  # 400 ± 3 standard deviations
    assert len(tenth & other) < 80  # another canary splits anew: 40 are expected


def test_chats_keep_the_version_that_they_began_with(database: Database) -> None:
    add_version(database)
    (old,) = begin_chats(database, 1)
    canary = start(database)
    new = begin_chats(database, 40)
    given = [chat for chat in new if chat.canary_id == canary.id]
    assert 5 < len(given) < 35
    assert all((chat.canary_id is not None) == canaries.is_chosen(canary.id, chat.id, 0.5) for chat in new)
    others = [old, *(chat for chat in new if chat.canary_id is None)]
    start(database, share=0.99)  # the same canary with another share moves nobody
    assert {answering(database, chat) for chat in given} == {"v2"}
    assert {answering(database, chat) for chat in others} == {"v1"}
    assert "v2" in {answering(database, chat) for chat in begin_chats(database, 5)}
    with database.write() as session:
        found = model_versions.open_canary(session)
        assert found is not None
        assert (found.id, found.share) == (canary.id, 0.99)
        canaries.end_canary(session, by="ada", why="Enough.")
    assert {answering(database, chat) for chat in new} == {"v1"}
    assert {chat.canary_id for chat in begin_chats(database, 20)} == {None}
    again = start(database)
    assert again.id != canary.id
    assert {answering(database, chat) for chat in given} == {"v1"}, "given to a canary that has ended"


def test_one_key_is_one_side(database: Database) -> None:
    add_version(database)
    start(database)
    sides = {
        key: {chat.canary_id for chat in begin_chats(database, 5, split_by=key)}
        for key in (f"person {number}" for number in range(60))
    }
    assert all(len(side) == 1 for side in sides.values())
    assert len({frozenset(side) for side in sides.values()}) == 2


def test_moving_the_alias_ends_a_canary(database: Database) -> None:
    add_version(database, "candidate")
    add_version(database)
    promoted = start(database)
    chat = next(chat for chat in begin_chats(database, 40) if chat.canary_id)
    with database.read() as session:
        assert model_versions.get_version(session, "v2").state == "ready", "an admin has decided on it"
    deploy(database, "v1")  # is deployed already: nothing moves
    deploy(database, "v2")
    assert answering(database, chat) == "v2"
    replaced = start(database, "v3")
    assert roll_back(database) == "v1"
    with database.read() as session:
        assert model_versions.open_canary(session) is None
        assert session.get_one(Canary, promoted.id).ending == "It was deployed."
        assert session.get_one(Canary, replaced.id).ending == "v1 was deployed."
        noted = [(event.action, event.target) for event in audit_events(session)]
    assert noted[:4] == [("deploy", "v1"), ("end canary", "v3"), ("canary", "v3"), ("deploy", "v2")]


def test_what_cannot_be_tried_is_refused(database: Database) -> None:
    for state in ("ready", "rejected", "ready"):
        add_version(database, state)
    for share in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(InvalidInput, match="above 0 and below 1"):
            start(database, share=share)
    with pytest.raises(Conflict, match="v1 is deployed"):
        start(database, "v1")
    with pytest.raises(Conflict, match="v3 is rejected"):
        start(database, "v3")
    with pytest.raises(NotFound, match="v9"):
        start(database, "v9")
    start(database, "v2")
    with pytest.raises(Conflict, match="v2 is being tried"):
        start(database, "v4")


def test_of_those_who_start_one_at_once_one_does(database: Database) -> None:
    names = [add_version(database) for _ in range(6)]
    together = threading.Barrier(len(names))

    def begin(name: str) -> str:
        together.wait()
        try:
            start(database, name)
        except Conflict as error:
            return error.code
        return "begun"

    with ThreadPoolExecutor(len(names)) as pool:
        outcomes = sorted(pool.map(begin, names))
    assert outcomes == ["begun", *["canary_open"] * 5]


def test_of_two_who_end_one_at_once_one_is_recorded(database: Database) -> None:
    add_version(database)
    canary = start(database)

    def end() -> str:
        try:
            with database.write() as session:
                canaries.end_canary(session, by="ben", why="Me too.")
        except Conflict as error:
            return error.code
        return "ended"

    with ThreadPoolExecutor(1) as pool:
        with database.write() as session:
            canaries.end_canary(session, by="ada", why="Enough.")
            other = pool.submit(end)
            if database.dialect == "postgresql":  # SQLite lets nobody in meanwhile
                wait_until(lambda: waiting(database))
        assert other.result() == "no_canary"
    with database.read() as session:
        assert session.get_one(Canary, canary.id).ending == "Enough."


def reply_and_vote(session: Session, chat: Chat, version: str, label: bool | None) -> None:
    version_id = model_versions.get_version(session, version).id
    add_reply(session, chat, version_id=version_id, label=label)


def test_only_what_was_split_is_compared(database: Database) -> None:
    add_version(database)
    (old,) = begin_chats(database, 1)
    canary = start(database)
    new = begin_chats(database, 60)
    given = [chat for chat in new if chat.canary_id][:3]
    beside = [chat for chat in new if not chat.canary_id][:2]
    with database.write() as session:
        assert canaries.count_chats(session, canary) == sum(chat.canary_id is not None for chat in new)
        empty = stats.canary_stats(session, canary)
        assert [(s.version, s.replies, s.approval) for s in empty] == [("v2", 0, None), ("v1", 0, None)]
        assert stats.difference_interval(*empty) is None
        reply_and_vote(session, old, "v1", True)  # from before
        for chat, label in zip(given, (True, False, None), strict=True):
            reply_and_vote(session, chat, "v2", label)
        reply_and_vote(session, given[0], "v1", True)  # while the canary could not be served
        for chat in beside:
            reply_and_vote(session, chat, "v1", True)
        one, other = stats.canary_stats(session, canary)
    assert (one.version, one.replies, one.up, one.down) == ("v2", 3, 1, 1)
    assert (other.version, other.replies, other.up, other.down) == ("v1", 2, 2, 0)


def test_the_interval_of_a_difference() -> None:
    # The examples of Newcombe 1998, "Interval estimation for the difference", table II, method 10.
    for (up, of), (other_up, other_of), low, high in (
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
    ):
        one = stats.VersionStats("v2", of, up, of - up)
        other = stats.VersionStats("v1", other_of, other_up, other_of - other_up)
        found = stats.difference_interval(one, other)
        assert found is not None
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
