"""Scheduled runs wait for the quiet hours, with real timers; who asks for a run does not wait."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from storage.db.database import Database
from storage.registry import training_runs
from storage.settings import Settings
from tests.integration.test_schedule import DUE, NIGHTLY, cast_votes, note_tick, runs, ticks
from tests.support.live_server import wait_until
from trainer.runs.schedule import Schedule


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"schedule": NIGHTLY, "min_new_votes": 2})


def hours_around_now(begin: timedelta, end: timedelta) -> str:
    now = datetime.now(UTC)
    return f"{now + begin:%H:%M}-{now + end:%H:%M}"


def test_a_run_that_is_due_waits_for_the_quiet_hours_and_says_so(
    database: Database, settings: Settings, open_schedule: Callable[[Settings], Schedule]
) -> None:
    cast_votes(database, 2)
    note_tick(database, DUE)
    later = hours_around_now(timedelta(hours=6), timedelta(hours=8))
    schedule = open_schedule(settings.model_copy(update={"quiet_hours": later}))
    schedule.start()
    assert runs(database) == []
    assert [t.due_at for t in ticks(database)] == [DUE], "it is still due"
    begins = schedule.next_run_time()
    assert begins is not None
    assert f"{begins:%H:%M}" == later[:5]
    assert timedelta(hours=5) < begins - datetime.now(UTC) <= timedelta(hours=6)
    assert f"waits for these hours, until {begins:%Y-%m-%d %H:%M} UTC" in schedule.describe()
    with database.write() as session:
        training_runs.request_run(session, trigger="admin")
    assert len(runs(database)) == 1, "who asks for a run does not wait"


def test_in_the_quiet_hours_a_run_that_was_due_begins(
    database: Database, settings: Settings, open_schedule: Callable[[Settings], Schedule]
) -> None:
    cast_votes(database, 2)
    note_tick(database, DUE)
    now = hours_around_now(-timedelta(hours=1), timedelta(hours=1))
    schedule = open_schedule(settings.model_copy(update={"quiet_hours": now}))
    schedule.start()
    (run,) = runs(database)
    assert run.trigger == "schedule"
    assert "waits" not in schedule.describe()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_run_that_waited_begins_with_the_quiet_hours(
    database: Database, settings: Settings, open_schedule: Callable[[Settings], Schedule]
) -> None:
    """Waits for the next full minute, the shortest that the setting can say."""
    cast_votes(database, 2)
    note_tick(database, DUE)
    soon = hours_around_now(timedelta(minutes=1), timedelta(hours=1))
    schedule = open_schedule(settings.model_copy(update={"quiet_hours": soon}))
    schedule.start()
    wait_until(lambda: runs(database), 90)
    assert [t.run_id for t in ticks(database)[1:]] == [runs(database)[0].id]
