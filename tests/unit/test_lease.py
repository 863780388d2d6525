"""When a trainer must stop, and how it learns of it."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from storage import training_runs
from storage.database import Database
from storage.tables import TrainingRun
from tests.live_server import wait_until
from trainer.lease import Interrupted, Lease


@pytest.fixture
def run(database: Database) -> TrainingRun:
    return claim(database, request(database))


@pytest.fixture
def lease(database: Database, run: TrainingRun) -> Iterator[Lease]:
    with Lease(database, run, lease_seconds=0.6) as lease:
        yield lease


def request(database: Database) -> str:
    with database.write() as session:
        return training_runs.request_run(session, trigger="cli").id


def claim(database: Database, run_id: str) -> TrainingRun:
    with database.write() as session:
        run = training_runs.claim_run(session, run_id, owner="t", lease_seconds=0.6, max_attempts=3)
    assert run is not None
    return run


def why(lease: Lease) -> str | None:
    try:
        lease.check()
    except Interrupted as interrupted:
        return interrupted.why
    return None


def test_a_beating_heart_keeps_the_run_and_shows_its_progress(
    database: Database, run: TrainingRun, lease: Lease
) -> None:
    lease.report({"phase": "training", "loss": float("nan"), "step": 3})
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        with database.read() as session:
            assert training_runs.claimable_run(session) is None
        time.sleep(0.1)
    with database.read() as session:
        progress = training_runs.get_run(session, run.id).progress
    assert progress == {"phase": "training", "loss": None, "step": 3}
    assert why(lease) is None


def test_a_cancellation_arrives_with_a_heartbeat(database: Database, run: TrainingRun, lease: Lease) -> None:
    with database.write() as session:
        training_runs.cancel_run(session, run.id)
    assert wait_until(lambda: why(lease), 30) == "cancelled"


def test_sigterm_and_ctrl_c_terminate(lease: Lease) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert wait_until(lambda: why(lease), 30) == "terminated"


def test_a_closed_lease_gives_the_signals_back(database: Database, run: TrainingRun) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Lease(database, run, lease_seconds=60):
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) != before
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_run_that_another_trainer_took_is_lost(database: Database, run: TrainingRun, lease: Lease) -> None:
    with database.write() as session:
        training_runs.expire_lease(session, run.id, "t")
        successor = training_runs.claim_run(session, run.id, owner="u", lease_seconds=60, max_attempts=3)
    assert successor is not None
    assert wait_until(lambda: why(lease), 30) == "lost"


def test_a_trainer_without_a_database_stops_when_its_lease_is_over(database: Database, lease: Lease) -> None:
    with database.write() as session:
        session.execute(sa.text("ALTER TABLE training_run RENAME TO away"))
    assert wait_until(lambda: why(lease), 30) == "lost"
    with database.write() as session:
        session.execute(sa.text("ALTER TABLE away RENAME TO training_run"))


def test_a_short_absence_of_the_database_is_survived(database: Database, run: TrainingRun) -> None:
    with Lease(database, run, lease_seconds=60) as lease:
        with database.write() as session:
            session.execute(sa.text("ALTER TABLE training_run RENAME TO away"))
        time.sleep(2.5)
        with database.write() as session:
            session.execute(sa.text("ALTER TABLE away RENAME TO training_run"))
        lease.report({"phase": "back"})

        def back() -> bool:
            with database.read() as session:
                return training_runs.get_run(session, run.id).progress == {"phase": "back"}

        wait_until(back, 30)
        assert why(lease) is None
