"""Replies under way belong to a server with a lease; ids keep their order whatever the clocks say."""

from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlmodel import col

from storage.chats import chats, votes
from storage.chats.reasoning import Parts
from storage.db.database import Database
from storage.db.ids import new_id
from storage.db.rows import database_now
from storage.db.tables import Chat, Deployment, Message, TrainingRun
from storage.errors import Conflict
from storage.people import users
from storage.registry import model_versions, training_runs
from tests.support.rows import add_person_with_reply, add_reply, add_version, deploy, roll_back

HOUR = timedelta(hours=1)


@pytest.fixture
def streaming(database: Database) -> Message:
    """A reply under way, with a fresh lease."""
    with database.write() as session:
        _, chat, _ = add_person_with_reply(session)
        return add_reply(session, chat, "Go on.", state="streaming")


def end_lease(database: Database, reply: Message, *, by: timedelta = timedelta()) -> None:
    with database.write() as session:
        session.get_one(Message, reply.id).lease_until = database_now(session) + by


def recover(database: Database) -> int:
    with database.write() as session:
        return chats.recover_interrupted(session)


def stored(database: Database, reply: Message) -> Message:
    with database.read() as session:
        return chats.get_message(session, reply.id)


def test_a_reply_with_a_lease_is_left_to_its_server(database: Database, streaming: Message) -> None:
    assert recover(database) == 0
    with database.write() as session:
        assert chats.renew_replies(session, {streaming.id: Parts("", "So far")}) == {streaming.id}
    assert recover(database) == 0
    kept = stored(database, streaming)
    assert (kept.state, kept.content) == ("streaming", "So far")


def test_a_reply_without_a_server_keeps_its_text_and_can_be_voted_on(
    database: Database, streaming: Message
) -> None:
    with database.write() as session:
        chats.renew_replies(session, {streaming.id: Parts("Well\x00?\n", "So\x00 far")})
    end_lease(database, streaming)
    assert recover(database) == 1
    assert recover(database) == 0
    kept = stored(database, streaming)
    assert (kept.state, kept.finish_reason, kept.content) == ("stopped", "interrupted", "So far")
    assert kept.reasoning == "Well?"
    with database.write() as session:
        owner = chats.get_chat(session, kept.chat_id).owner_id
        assert votes.cast_vote(session, user_id=owner, message_id=kept.id, label=True).label is True

    # Its server was only slow, and learns that the reply is no longer its own.
    with database.write() as session:
        assert chats.renew_replies(session, {streaming.id: Parts("", "So far and")}) == set()
        late = chats.finish_reply(
            session,
            streaming.id,
            content="So far and further",
            state="complete",
            finish_reason="stop",
            token_ids=[5, 2],
            timings={},
        )
    assert (late.finish_reason, late.content) == ("interrupted", "So far")
    assert stored(database, streaming) == late


def test_without_text_such_a_reply_failed(database: Database, streaming: Message) -> None:
    end_lease(database, streaming)
    assert recover(database) == 1
    assert stored(database, streaming).state == "failed"
    with database.write() as session:
        owner = chats.get_chat(session, streaming.chat_id).owner_id
        with pytest.raises(Conflict, match="regenerate"):
            votes.cast_vote(session, user_id=owner, message_id=streaming.id, label=True)


def test_a_clock_that_was_set_back_does_not_prolong_leases(database: Database, streaming: Message) -> None:
    end_lease(database, streaming, by=HOUR)
    assert recover(database) == 1
    with database.write() as session:
        run = training_runs.request_run(session, trigger="api")
        held = training_runs.claim_run(session, run.id, owner="a", lease_seconds=30.0, max_attempts=3)
        assert held is not None
        assert training_runs.claimable_run(session) is None
        assert held.heartbeat_at is not None
        held.heartbeat_at += HOUR
        held.lease_until = held.heartbeat_at + timedelta(seconds=30)
        session.flush()
        assert training_runs.claimable_run(session) is not None


def test_a_lease_of_a_moment_later_is_not_taken_for_one_before_the_clock_was_set_back(
    database: Database, streaming: Message
) -> None:
    """Another server may write between our look at the clock and at the rows."""
    end_lease(database, streaming, by=chats.REPLY_LEASE + timedelta(seconds=2))
    assert recover(database) == 0
    with database.write() as session:
        run = training_runs.request_run(session, trigger="api")
        held = training_runs.claim_run(session, run.id, owner="a", lease_seconds=30.0, max_attempts=3)
        assert held is not None
        assert held.heartbeat_at is not None
        held.heartbeat_at += timedelta(seconds=2)
        session.flush()
        assert training_runs.claimable_run(session) is None


def test_looking_for_replies_without_a_server_reads_an_index(database: Database) -> None:
    if database.dialect != "sqlite":
        pytest.skip("PostgreSQL scans a table this small")
    statements: list[str] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    recover(database)
    looked = next(text for text in statements if "FROM message" in text)
    with database.engine.connect() as connection:
        given = ("2000-01-01",) * looked.count("?")
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {looked}", given).all()
    assert "ix_message_streaming" in str(rows)


def ahead(made: str) -> str:
    """The id as a clock that is an hour ahead would have made it."""
    return str(UUID(int=UUID(made).int + (3_600_000 << 80)))


def test_ids_come_after_a_given_one() -> None:
    future = ahead(new_id())
    one = new_id(after=future)
    assert future < one < new_id(after=one)
    assert UUID(one).version == 7
    assert new_id() < future


def test_a_chat_that_a_clock_ahead_began_goes_on(database: Database) -> None:
    with database.write() as session:
        _, chat, reply = add_person_with_reply(session)
        asked = {
            "id": ahead(new_id()),
            "role": "user",
            "parent_id": reply.id,
            "content": "From a clock ahead",
        }
        session.add(Message(**reply.model_dump() | asked))
        session.flush()
        answer = {"id": ahead(new_id()), "parent_id": asked["id"], "content": "Its answer"}
        session.add(Message(**reply.model_dump() | answer))
        session.flush()
        add_reply(session, chat, "One", "1")
        add_reply(session, chat, "Two", "2")
        path = chats.current_path(session, chat.id)
        assert [message.content for message in path[2:]] == [
            asked["content"],
            "Its answer",
            "One",
            "1",
            "Two",
            "2",
        ]
        edited = chats.add_user_message(session, chat.id, "Two, edited", edits=path[-2])
        assert chats.current_path(session, chat.id)[-1].id == edited.id


def test_a_new_chat_is_the_newest_and_so_is_a_run(database: Database) -> None:
    with database.write() as session:
        person = users.create_anonymous(session)
        session.add(Chat(id=ahead(new_id()), owner_id=person.id))
        session.flush()
        chat = chats.create_chat(session, person.id)
        assert chats.list_chats(session, person.id)[0].id == chat.id
        session.add(TrainingRun(id=ahead(new_id()), trigger="api", state="failed"))
        session.flush()
        run = training_runs.request_run(session, trigger="api")
        assert training_runs.list_runs(session)[0].id == run.id


def test_rolling_back_after_a_clock_ahead_goes_to_the_version_before(database: Database) -> None:
    first, second = add_version(database), add_version(database)
    deploy(database, first)
    with database.write() as session:
        current = model_versions.deployments(session)[0].id
        session.execute(sa.update(Deployment).where(col(Deployment.id) == current).values(id=ahead(current)))
    deploy(database, second)
    assert roll_back(database) == first
