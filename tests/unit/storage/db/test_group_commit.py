"""Writes that share a commit: isolated from each other, durable when answered, refused when too many."""

import contextlib
import sqlite3
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlmodel import Session, select

from storage.db.database import Database, open_database
from storage.db.tables import User
from storage.errors import Busy, Conflict, InvalidInput, NotReady, NotStored
from storage.people import users
from storage.settings import Settings


def names(database: Database) -> set[str | None]:
    with database.read() as session:
        return set(session.exec(select(User.name)))


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    return open_database(Settings(data_dir=tmp_path))


def test_one_failing_write_takes_no_other_with_it(sqlite: Database) -> None:
    start = threading.Barrier(9)
    outcomes: list[str] = []

    def write(number: int) -> None:
        start.wait()
        try:
            sqlite.submit(lambda session: users.create_user(session, f"user-{number % 6}")).result()
            outcomes.append("stored")
        except Conflict:
            outcomes.append("refused")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 3 + ["stored"] * 6
    assert names(sqlite) == {f"user-{number}" for number in range(6)}
    sqlite.close()


def test_an_answered_write_is_visible_to_another_connection(database: Database) -> None:
    for number in range(20):
        user = database.submit(lambda session, n=number: users.create_user(session, f"user-{n}")).result()
        with database.read() as session:
            assert users.get_user(session, user.id).name == f"user-{number}"


def test_a_commit_that_fails_is_told_to_every_caller(sqlite: Database) -> None:
    # The size limit stands in for a full disk: SQLite cannot grow the file, as ENOSPC would have it.
    with sqlite.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    sa.event.listen(
        sqlite.engine,
        "begin",
        lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count={pages}"),
    )

    def write_until_full() -> None:
        for number in range(10_000):
            sqlite.submit(
                lambda session, n=number: users.create_user(session, f"user-{n}-" + "x" * 80)
            ).result()

    with pytest.raises(NotStored, match="full"):
        write_until_full()
    stored = names(sqlite)
    sqlite.close()
    assert stored == {f"user-{n}-" + "x" * 80 for n in range(len(stored))}


def test_a_lock_of_another_process_is_no_full_disk(sqlite: Database) -> None:
    sa.event.listen(
        sqlite.engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=10")
    )
    sqlite.engine.dispose()
    assert sqlite.path is not None
    with contextlib.closing(sqlite3.connect(sqlite.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Busy, match="lock") as caught:
            sqlite.submit(lambda session: users.create_user(session, "ada")).result()
    assert (caught.value.code, caught.value.retry_after) == ("database_unavailable", 5)
    sqlite.submit(lambda session: users.create_user(session, "ada")).result()
    sqlite.close()


def test_a_full_queue_is_refused_at_once(database: Database) -> None:
    entered, leave = threading.Event(), threading.Event()

    def block(session: Session) -> None:
        entered.set()
        assert leave.wait(60)

    waiting = [database.submit(block)]
    assert entered.wait(60)
    waiting += [database.submit(lambda session: None) for _ in range(2048)]
    with pytest.raises(Busy) as refused:
        database.submit(lambda session: None)
    assert refused.value.retry_after > 0
    leave.set()
    for future in waiting:
        future.result(60)
    database.close()
    with pytest.raises(NotReady, match="stopping"):
        database.submit(lambda session: None)


def test_whoever_writes_while_it_closes_is_answered(tmp_path: Path) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(20):
            database = open_database(Settings(data_dir=tmp_path / str(number)))
            accepted: list[Future[None]] = []

            def keep_writing(database: Database = database, accepted: list[Future[None]] = accepted) -> None:
                with contextlib.suppress(NotReady):
                    while True:
                        with contextlib.suppress(Busy):
                            accepted.append(database.submit(lambda session: None))

            writers = [threading.Thread(target=keep_writing) for _ in range(4)]
            for writer in writers:
                writer.start()
            while not accepted:
                pass
            database.close()
            for writer in writers:
                writer.join()
            assert all(future.done() for future in accepted)
    finally:
        sys.setswitchinterval(interval)


def test_a_failure_is_only_its_own_whatever_it_left_in_the_transaction(database: Database) -> None:
    entered, leave = threading.Event(), threading.Event()

    def block(session: Session) -> None:
        entered.set()
        assert leave.wait(60)

    def store_and_fail(session: Session) -> None:
        users.create_user(session, "half")
        session.execute(sa.insert(User), [{"id": "one"}, {"id": "one"}])

    blocked = database.submit(block)
    assert entered.wait(60)
    # These wait together, so they share a commit.
    before = database.submit(lambda session: users.create_user(session, "before"))
    failing = database.submit(store_and_fail)
    refused = database.submit(lambda session: users.create_user(session, " "))
    given_up = database.submit(lambda session: users.create_user(session, "given up"))
    after = database.submit(lambda session: users.create_user(session, "after"))
    assert given_up.cancel()
    leave.set()
    blocked.result(60)
    assert {before.result(60).name, after.result(60).name} == {"before", "after"}
    with pytest.raises(sa.exc.IntegrityError):
        failing.result(60)
    with pytest.raises(InvalidInput):
        refused.result(60)
    assert names(database) == {"before", "after"}
