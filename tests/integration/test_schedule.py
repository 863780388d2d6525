"""The schedule and its quiet hours on both engines, with real timers and processes: one tick, one run."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier

import pytest
from sqlmodel import select

from storage.chats import chats, votes
from storage.db.database import Database
from storage.db.tables import ScheduleTick, TrainingRun
from storage.errors import BadSetting
from storage.people import users
from storage.registry import training_runs
from storage.settings import Settings
from tests.support.live_server import wait_until
from tests.support.rows import add_reply
from trainer.runs.schedule import ALREADY, Schedule, tick

DUE = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
NIGHTLY = "0 3 * * *"
STARTERS = 3


def cast_votes(database: Database, number: int) -> None:
    with database.write() as session:
        chat = chats.create_chat(session, users.create_anonymous(session).id)
        for _ in range(number):
            add_reply(session, chat, label=True)


def ticks(database: Database) -> list[ScheduleTick]:
    with database.read() as session:
        return list(session.exec(select(ScheduleTick).order_by("due_at")))


def runs(database: Database) -> list[TrainingRun]:
    with database.read() as session:
        return list(session.exec(select(TrainingRun)))


def finish(database: Database, run_id: str, state: str = "succeeded") -> None:
    """Take a run through its life: it saw all votes so far."""
    with database.write() as session:
        run = training_runs.claim_run(session, run_id, owner="test", lease_seconds=30, max_attempts=3)
        assert run is not None
        newest = votes.latest_event_id(session)
        training_runs.update_run(session, run_id, run.fence, snapshot_event_id=newest)
        training_runs.finish_run(session, run_id, run.fence, state=state, reason="test")


def note_tick(database: Database, due_at: datetime) -> None:
    with database.write() as session:
        assert training_runs.record_tick(session, due_at, outcome="test")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"schedule": NIGHTLY, "min_new_votes": 2})


# One tick


def test_a_tick_with_enough_votes_requests_a_run(database: Database, settings: Settings) -> None:
    cast_votes(database, 2)
    outcome = tick(database, settings, DUE)
    (run,) = runs(database)
    assert (run.trigger, run.state) == ("schedule", "requested")
    assert outcome == f"Requested run {run.id} for 2 new votes."
    (recorded,) = ticks(database)
    assert (recorded.due_at, recorded.outcome, recorded.run_id) == (DUE, outcome, run.id)


@pytest.mark.both_engines
def test_a_tick_counts_once_and_a_failed_run_uses_up_no_votes(database: Database, settings: Settings) -> None:
    cast_votes(database, 2)
    tick(database, settings, DUE)
    assert tick(database, settings, DUE) == ALREADY
    finish(database, runs(database)[0].id, state="failed")
    assert tick(database, settings, DUE) == ALREADY, "a late scheduler repeats the tick after its run"
    assert len(runs(database)) == len(ticks(database)) == 1
    later = tick(database, settings, DUE + timedelta(hours=1))
    assert later.startswith("Requested run"), "votes of a run that failed are still new"


def test_a_tick_while_a_run_is_active_starts_none(database: Database, settings: Settings) -> None:
    cast_votes(database, 2)
    with database.write() as session:
        active = training_runs.request_run(session, trigger="admin")
    outcome = tick(database, settings, DUE)
    assert outcome.startswith("No run: ")
    assert active.id in outcome
    assert [run.id for run in runs(database)] == [active.id]
    assert [(t.outcome, t.run_id) for t in ticks(database)] == [(outcome, None)]
    assert tick(database, settings, DUE) == ALREADY


def test_only_votes_after_the_last_trained_snapshot_are_new(database: Database, settings: Settings) -> None:
    cast_votes(database, 2)
    tick(database, settings, DUE)
    finish(database, runs(database)[0].id)
    cast_votes(database, 1)
    too_few = "No run: 1 new votes, and 2 are needed."
    assert tick(database, settings, DUE + timedelta(hours=1)) == ticks(database)[-1].outcome == too_few
    assert len(runs(database)) == 1
    cast_votes(database, 1)
    assert tick(database, settings, DUE + timedelta(hours=2)).startswith("Requested run")


@pytest.mark.both_engines
def test_many_threads_at_one_tick_request_one_run(database: Database, settings: Settings) -> None:
    cast_votes(database, 2)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: tick(database, settings, DUE), range(16)))
    assert sorted(outcomes, key=ALREADY.__eq__)[1:] == [ALREADY] * 15
    assert len(runs(database)) == len(ticks(database)) == 1


# Start-up


def test_a_new_database_has_missed_nothing_nor_has_one_since_its_last_tick(
    database: Database, settings: Settings, open_schedule: Callable[..., Schedule]
) -> None:
    cast_votes(database, 2)
    for _ in range(2):
        schedule = open_schedule(settings)
        schedule.start()
    (begun,) = ticks(database)
    assert (begun.due_at.hour, begun.due_at.minute) == (3, 0)
    assert begun.due_at <= datetime.now(UTC)
    following = schedule.next_run_time()
    assert following is not None
    note_tick(database, following)
    schedule.stop()
    schedule.start()
    assert runs(database) == []


def test_missed_ticks_run_once_at_start_up(
    database: Database, settings: Settings, open_schedule: Callable[..., Schedule]
) -> None:
    cast_votes(database, 2)
    note_tick(database, DUE)
    schedule = open_schedule(settings)
    schedule.start()
    schedule.stop()
    schedule.start()
    (run,) = runs(database)
    missed = ticks(database)[1:]
    assert [t.run_id for t in missed] == [run.id]
    age = datetime.now(UTC) - missed[0].due_at
    assert age < timedelta(days=1, minutes=5), "the newest missed tick stands for all"


def clock_before(moment: datetime) -> Callable[[], datetime]:
    """A clock that strikes that moment two seconds from now."""
    offset = moment - timedelta(seconds=2) - datetime.now(UTC)
    return lambda: datetime.now(UTC) + offset


def start_schedule(settings: Settings, barrier: Barrier, fire: bool) -> None:
    """A scheduler process of its own, with its own engine and timer; with `fire`, until that has gone off."""
    database = Database(settings.database_address)
    barrier.wait(timeout=120)
    schedule = Schedule(database, settings, **({"now": clock_before(DUE)} if fire else {}))
    schedule.start()
    if fire:
        wait_until(lambda: any(t.due_at == DUE for t in ticks(database)))
        wait_until(lambda: schedule.next_run_time() != DUE)
        barrier.wait(timeout=90)
    schedule.stop()
    database.close()


def run_processes(settings: Settings, fire: bool) -> None:
    """Several schedulers on one store, all at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    barrier = context.Barrier(STARTERS)
    processes = [
        context.Process(target=start_schedule, args=(settings, barrier, fire)) for _ in range(STARTERS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
        assert process.exitcode == 0


@pytest.mark.both_engines
def test_processes_that_start_together_make_up_for_a_missed_tick_once(
    database: Database, settings: Settings
) -> None:
    cast_votes(database, 2)
    note_tick(database, DUE)
    run_processes(settings, fire=False)
    assert len(runs(database)) == 1
    assert [t.run_id for t in ticks(database) if t.run_id] == [runs(database)[0].id]


@pytest.mark.both_engines
def test_timers_of_several_processes_start_one_run(database: Database, settings: Settings) -> None:
    cast_votes(database, 2)
    run_processes(settings, fire=True)
    (run,) = runs(database)
    assert [t.run_id for t in ticks(database) if t.due_at == DUE] == [run.id]
    assert len(ticks(database)) == 2, "one more for the begin"


# What is said about it


def test_what_is_said_of_the_schedule_and_the_next_run(database: Database, settings: Settings) -> None:
    needs = "Trains on `0 3 * * *` (UTC) if at least 2 votes are new."
    assert Schedule(database, settings).describe() == needs
    night = settings.model_copy(update={"schedule": "30 3 * * *", "timezone": "Asia/Kolkata"})
    following = Schedule(database, night).next_run_time()
    assert following is not None
    assert following.tzinfo is UTC
    assert (following.hour, following.minute) == (22, 0)
    assert datetime.now(UTC) < following <= datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize("sunday", ["0", "7", "sun"])
def test_weekdays_are_numbered_as_in_cron(database: Database, settings: Settings, sunday: str) -> None:
    weekly = settings.model_copy(update={"schedule": f"0 3 * * {sunday}"})
    following = Schedule(database, weekly).next_run_time()
    assert following is not None
    assert following.isoweekday() == 7


def test_without_a_schedule_nothing_happens(
    database: Database, settings: Settings, open_schedule: Callable[..., Schedule]
) -> None:
    schedule = open_schedule(settings.model_copy(update={"schedule": ""}))
    schedule.start()
    assert schedule.next_run_time() is None
    assert schedule.describe() == "No schedule: training starts only when somebody asks for it."
    assert ticks(database) == []


@pytest.mark.parametrize(
    "cron", ["0 25 * * *", "* * * *", "* * * * * *", "nightly", "0 3 * * 8", "0 3 * * 5-1", "0 3 30 2 *"]
)
def test_a_bad_schedule_is_refused_with_the_remedy(database: Database, settings: Settings, cron: str) -> None:
    with pytest.raises(BadSetting, match="five cron fields") as refused:
        Schedule(database, settings.model_copy(update={"schedule": cron}))
    assert repr(cron) in refused.value.message
    assert refused.value.field == "schedule"


# Quiet hours


def hours_around_now(begin: timedelta, end: timedelta) -> str:
    now = datetime.now(UTC)
    return f"{now + begin:%H:%M}-{now + end:%H:%M}"


def test_a_run_that_is_due_waits_for_the_quiet_hours_and_says_so(
    database: Database, settings: Settings, open_schedule: Callable[..., Schedule]
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
    database: Database, settings: Settings, open_schedule: Callable[..., Schedule]
) -> None:
    cast_votes(database, 2)
    note_tick(database, DUE)
    now = hours_around_now(-timedelta(hours=1), timedelta(hours=1))
    schedule = open_schedule(settings.model_copy(update={"quiet_hours": now}))
    schedule.start()
    (run,) = runs(database)
    assert run.trigger == "schedule"
    assert "waits" not in schedule.describe()


def test_a_run_that_waited_begins_with_the_quiet_hours(
    database: Database, settings: Settings, open_schedule: Callable[..., Schedule]
) -> None:
    cast_votes(database, 2)
    note_tick(database, DUE - timedelta(days=1))
    evening = DUE.replace(hour=22)
    later = settings.model_copy(update={"quiet_hours": "22:00-23:00"})
    schedule = open_schedule(later, now=clock_before(evening))
    schedule.start()
    assert (schedule.next_run_time(), runs(database)) == (evening, [])
    wait_until(lambda: runs(database))
    assert [(t.due_at, t.run_id) for t in ticks(database)[1:]] == [(DUE, runs(database)[0].id)]
