"""The queue of training runs, leases and fences, on both engines."""

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from storage.db.database import Database
from storage.db.tables import TrainingRun, now
from storage.errors import Conflict, LeaseLost
from storage.registry import model_versions, training_runs
from storage.registry.artifacts import Published
from tests.support.threads import at_once

LONG, OVER = 60.0, 0.0


def request(database: Database) -> TrainingRun:
    with database.write() as session:
        return training_runs.request_run(session, trigger="api")


def claim(database: Database, run: TrainingRun, owner: str = "a", lease: float = LONG) -> TrainingRun | None:
    with database.write() as session:
        return training_runs.claim_run(session, run.id, owner=owner, lease_seconds=lease, max_attempts=3)


def test_only_one_run_is_active(database: Database) -> None:
    run = request(database)
    with pytest.raises(Conflict, match=run.id):
        request(database)
    with database.write() as session:
        training_runs.cancel_run(session, run.id)
    assert request(database).id != run.id


def test_a_fresh_run_begins_at_the_base_whatever_else_is_asked(database: Database) -> None:
    with database.write() as session:
        asked = {"beta": 0.2, "training_mode": "continue"}
        run = training_runs.request_run(session, trigger="api", fresh=True, settings=asked)
        assert run.settings == {"beta": 0.2, "training_mode": "fresh"}


def test_one_of_many_claimants_gets_the_run(database: Database) -> None:
    run = request(database)
    claims = at_once(partial(claim, database, run, owner=f"trainer {n}") for n in range(8))
    assert len([c for c in claims if c is not None]) == 1


def test_a_lease_that_ran_out_is_taken_over_and_the_old_trainer_is_refused(database: Database) -> None:
    run = request(database)
    old = claim(database, run, owner="old", lease=OVER)
    assert old is not None
    with database.read() as session:
        waiting = training_runs.claimable_run(session)
    assert waiting is not None
    assert waiting.id == run.id
    new = claim(database, run, owner="new")
    assert new is not None
    assert new.fence == old.fence + 1
    with database.write() as session:
        model_versions.ensure_base(session, "tiny")
    publish = partial(model_versions.publish_version, published=Published("p", "s", {}))
    publish = partial(publish, run_id=run.id, base_model="tiny", metrics={})
    for write in (
        lambda s: training_runs.heartbeat(s, run.id, old.fence, lease_seconds=LONG),
        lambda s: training_runs.update_run(s, run.id, old.fence, log_path="x"),
        lambda s: training_runs.finish_run(s, run.id, old.fence, state="succeeded", reason=""),
        lambda s: training_runs.release_run(s, run.id, old.fence, "late"),
        lambda s: publish(s, fence=old.fence),
    ):
        with pytest.raises(LeaseLost, match="no longer holds"), database.write() as session:
            write(session)
    with database.read() as session:
        assert [v.name for v in model_versions.list_versions(session)] == ["v1"]
    with database.write() as session:
        first, again = publish(session, fence=new.fence), publish(session, fence=new.fence)
    assert (first.name, again.id) == ("v2", first.id)


def test_a_run_whose_trainers_keep_dying_fails_with_a_reason(database: Database) -> None:
    run = request(database)
    for _ in range(3):
        assert claim(database, run, lease=OVER) is not None
    assert claim(database, run) is None
    with database.read() as session:
        ended = training_runs.get_run(session, run.id)
    assert ended.state == "failed"
    assert "died 3 times" in (ended.reason or "")


def test_a_released_run_can_be_claimed_again_without_counting(database: Database) -> None:
    run = request(database)
    for _ in range(5):
        held = claim(database, run)
        assert held is not None
        with database.write() as session:
            training_runs.release_run(session, run.id, held.fence, "The server stopped.")


def test_cancelling_reaches_a_running_trainer_with_its_heartbeat(database: Database) -> None:
    run = request(database)
    held = claim(database, run)
    assert held is not None
    with database.write() as session:
        beat = training_runs.heartbeat(session, run.id, held.fence, lease_seconds=LONG, progress={"step": 1})
        assert beat is False
        training_runs.cancel_run(session, run.id)
    with database.write() as session:
        assert training_runs.heartbeat(session, run.id, held.fence, lease_seconds=LONG) is True
        training_runs.finish_run(session, run.id, held.fence, state="cancelled", reason="Cancelled.")
    with pytest.raises(Conflict, match="is over"), database.write() as session:
        training_runs.cancel_run(session, run.id)


def test_a_tick_is_recorded_once(database: Database) -> None:
    due = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
    recorded = []
    for _ in range(2):
        with database.write() as session:
            recorded.append(training_runs.record_tick(session, due, outcome="fired") is not None)
    assert recorded == [True, False]
    with database.read() as session:
        tick = training_runs.last_tick(session)
    assert tick is not None
    assert tick.due_at == due
    assert abs(tick.created_at - now()) < timedelta(minutes=5)
