"""When to ask for a training run. Whether there is one, the database decides.

Every process has its own timer, in memory. All of them write the same scheduled time to one unique
key, so however many fire, late or twice, one of them counts. Knows nothing of how a run is executed.
"""

import logging
import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from storage.chats import votes
from storage.db.database import Database
from storage.errors import BadSetting, Conflict
from storage.registry import training_runs
from storage.settings import Settings
from trainer.runs.quiet_hours import QuietHours

log = logging.getLogger(__name__)

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
LONGEST_PAUSE = timedelta(days=366 * 50)  # a 29 February that is a Monday comes every 28 years
ALREADY = "This tick was already taken care of."


class Schedule:
    """The timer of one process; raises BadSetting if the schedule cannot be read."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._trigger = _trigger(settings)
        self._hours = QuietHours(settings.quiet_hours, settings.timezone)
        self._scheduler: BackgroundScheduler | None = None

    def start(self) -> None:
        """Make up for a missed tick, once however many were missed, and start the timer."""
        if self._trigger is None or self._scheduler is not None:
            return
        self._scheduler = BackgroundScheduler(timezone=UTC)
        self._catch_up(self._trigger)
        # Late is better than never: APScheduler's own default forgets a tick after one second.
        self._scheduler.add_job(self._fire, self._trigger, misfire_grace_time=None, coalesce=True)
        self._scheduler.start()

    def stop(self) -> None:
        """Stop the timer; a tick that is being handled is finished first."""
        if self._scheduler is not None:
            self._scheduler.shutdown(wait=True)
            self._scheduler = None

    def next_run_time(self) -> datetime | None:
        """When the next tick is due or a waiting one may begin, in UTC; None without a schedule."""
        if self._trigger is None:
            return None
        waiting = self._waiting()
        return waiting[1] if waiting else _next_due(self._trigger, datetime.now(UTC))

    def describe(self) -> str:
        """The schedule, and why a run that is due has to wait, if one has."""
        if self._trigger is None:
            return "No schedule: training starts only when somebody asks for it."
        hours = f", in the hours {self._settings.quiet_hours}" if self._settings.quiet_hours else ""
        text = (
            f"Trains on `{self._settings.schedule}` ({self._settings.timezone}) "
            f"if at least {self._settings.min_new_votes} votes are new{hours}."
        )
        waiting = self._waiting()
        if waiting is None:
            return text
        due_at, begins = waiting
        return (
            f"{text} The run that was due at {_shown(due_at)} waits for these hours, until {_shown(begins)}."
        )

    def _waiting(self) -> tuple[datetime, datetime] | None:
        """When the tick that waits for the quiet hours was due, and when they begin; None if none does."""
        now = datetime.now(UTC)
        if self._trigger is None or self._hours.include(now):
            return None
        due_at = _latest_due(self._trigger, now)
        with self._database.read() as session:
            last = training_runs.last_tick(session)
        if due_at is None or last is None or last.due_at >= due_at:
            return None
        return due_at, self._hours.next_after(now)

    def _catch_up(self, trigger: CronTrigger) -> None:
        due_at = _latest_due(trigger, datetime.now(UTC))
        if due_at is None:
            return
        with self._database.read() as session:
            last = training_runs.last_tick(session)
        if last is None:
            # A new installation has missed nothing, however old its schedule looks.
            with self._database.write() as session:
                training_runs.record_tick(
                    session, due_at, outcome="The schedule begins here; nothing was due."
                )
        elif last.due_at < due_at:
            self._attend(due_at)

    def _fire(self) -> None:
        assert self._trigger is not None
        # The time it was due, and not the time it is: all schedulers must name the same.
        due_at = _latest_due(self._trigger, datetime.now(UTC))
        if due_at is not None:
            self._attend(due_at)

    def _attend(self, due_at: datetime) -> None:
        """Handle the tick now, or when the quiet hours begin."""
        now = datetime.now(UTC)
        if self._hours.include(now):
            tick(self._database, self._settings, due_at)
            return
        begins = self._hours.next_after(now)
        log.info("Schedule of %s: it waits for the quiet hours, until %s.", _shown(due_at), _shown(begins))
        assert self._scheduler is not None
        self._scheduler.add_job(
            self._fire,
            "date",
            run_date=begins,
            id="quiet hours",
            replace_existing=True,
            misfire_grace_time=None,
        )


def tick(database: Database, settings: Settings, due_at: datetime) -> str:
    """Handle one tick of the schedule, once: request a run, or record why there is none.

    Returns what came of it, for people.
    """
    try:
        outcome = _request(database, settings, due_at)
    except Conflict as conflict:
        outcome = f"No run: {conflict.message}"
        with database.write() as session:
            if not training_runs.record_tick(session, due_at, outcome=outcome):
                outcome = ALREADY
    except _AlreadyTaken:
        outcome = ALREADY
    log.info("Schedule of %s: %s", _shown(due_at), outcome)
    return outcome


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


class _AlreadyTaken(Exception):
    """Undoes the transaction, and with it the run that this late scheduler would have requested."""


def _request(database: Database, settings: Settings, due_at: datetime) -> str:
    with database.write() as session:
        new = votes.count_events_after(session, training_runs.last_trained_event_id(session))
        run_id = None
        outcome = f"No run: {new} new votes, and {settings.min_new_votes} are needed."
        if new >= settings.min_new_votes:
            run_id = training_runs.request_run(session, trigger="schedule").id
            outcome = f"Requested run {run_id} for {new} new votes."
        if not training_runs.record_tick(session, due_at, outcome=outcome, run_id=run_id):
            raise _AlreadyTaken
    return outcome


def _trigger(settings: Settings) -> CronTrigger | None:
    fields = settings.schedule.split()
    if not fields:
        return None
    if len(fields) == 5:
        fields[4] = _weekdays_by_name(fields[4])
    try:
        trigger = CronTrigger.from_crontab(" ".join(fields), timezone=ZoneInfo(settings.timezone))
        if _next_due(trigger, datetime.now(UTC)) is None:
            raise ValueError("No such day ever comes")
    except ValueError as error:
        raise BadSetting(
            f"THUMBLOOP_SCHEDULE={settings.schedule!r} is not a schedule: {error}. Use five cron fields "
            f"(minute hour day month weekday), such as '0 3 * * *' for every night at three, or leave it "
            f"empty to train only when asked.",
            field="schedule",
        ) from error
    return trigger


def _weekdays_by_name(field: str) -> str:
    """Cron counts weekdays from Sunday as 0 or 7, APScheduler 3 from Monday; both know the names."""
    names: list[str] = []
    for part in field.split(","):
        found = re.fullmatch(r"(?:\*|([0-7])(?:-([0-7]))?)(?:/([1-9]))?", part)
        if part == "*" or found is None:
            names.append(part)
            continue
        first, last, step = found.groups()
        end = last or ("6" if step or not first else first)
        days = WEEKDAYS[int(first or 0) : int(end) + 1 : int(step or 1)]
        names.extend(days or [part])
    return ",".join(names)


def _next_due(trigger: CronTrigger, after: datetime) -> datetime | None:
    due: datetime | None = trigger.get_next_fire_time(None, after)
    return due.astimezone(UTC) if due is not None else None


def _latest_due(trigger: CronTrigger, now: datetime) -> datetime | None:
    """The last scheduled time up to now; None if there was none for decades."""
    reach = timedelta(minutes=1)
    while reach < LONGEST_PAUSE:
        latest = None
        due = _next_due(trigger, now - reach)
        while due is not None and due <= now:
            latest = due
            due = _next_due(trigger, due + timedelta(microseconds=1))
        if latest is not None:
            return latest
        reach *= 2
    return None
