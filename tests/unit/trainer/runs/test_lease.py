"""When a trainer must stop, and how it learns of it."""

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from storage.db.database import Database
from storage.db.tables import TrainingRun
from storage.registry import training_runs
from tests.support.live_server import wait_until
from trainer.errors import Interrupted
from trainer.runs.lease import Lease

pytestmark = pytest.mark.both_engines


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


def claim(database: Database, run_id: str, lease_seconds: float = 0.6) -> TrainingRun:
    with database.write() as session:
        run = training_runs.claim_run(session, run_id, owner="t", lease_seconds=lease_seconds, max_attempts=3)
    assert run is not None
    return run


def why(lease: Lease) -> str | None:
    try:
        lease.check()
    except Interrupted as interrupted:
        return interrupted.why
    return None


def cancel(database: Database, run_id: str) -> None:
    with database.write() as session:
        training_runs.cancel_run(session, run_id)


def terminate(_: Database, __: str) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def take_over(database: Database, run_id: str) -> None:
    with database.write() as session:
        training_runs.expire_lease(session, run_id, "t")
        successor = training_runs.claim_run(session, run_id, owner="u", lease_seconds=60, max_attempts=3)
    assert successor is not None


def test_a_beating_heart_keeps_the_run_and_shows_its_progress(database: Database) -> None:
    run = claim(database, request(database), lease_seconds=3)
    assert run.lease_until is not None
    outlived = run.lease_until + timedelta(seconds=3.5)  # a lease given after the first was over

    def found() -> TrainingRun:
        with database.read() as session:
            return training_runs.get_run(session, run.id)

    with Lease(database, run, lease_seconds=3) as lease:
        lease.report({"phase": "training", "loss": float("nan"), "step": 3})
        wait_until(lambda: (found().lease_until or run.lease_until) > outlived)
        with database.read() as session:
            assert training_runs.claimable_run(session) is None
        assert found().progress == {"phase": "training", "loss": None, "step": 3}
        assert why(lease) is None


def test_a_cancellation_arrives_with_a_heartbeat(database: Database, run: TrainingRun, lease: Lease) -> None:
    cancel(database, run.id)
    assert wait_until(lambda: why(lease), 30) == "cancelled"


def test_sigterm_and_ctrl_c_terminate(lease: Lease) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert wait_until(lambda: why(lease), 30) == "terminated"


def test_a_closed_lease_gives_the_signals_back(database: Database, run: TrainingRun) -> None:
    def handlers() -> list[Any]:
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    before = handlers()
    with Lease(database, run, lease_seconds=60):
        assert all(now != then for now, then in zip(handlers(), before, strict=True))
    assert handlers() == before


def test_a_run_that_another_trainer_took_is_lost(database: Database, run: TrainingRun, lease: Lease) -> None:
    take_over(database, run.id)
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
