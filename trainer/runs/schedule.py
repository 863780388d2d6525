"""Requests training runs on a cron schedule, once per scheduled time on all servers.

Every process has its own timer in memory. All of them write the same scheduled time to a unique key, so only
one counts, however many fire, late or twice. Knows nothing of how a run is executed.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time, timedelta
from functools import partial
from zoneinfo import ZoneInfo

from apscheduler.schedulers.background import BackgroundScheduler

from storage.chats import votes
from storage.db.database import Database
from storage.errors import BadSetting, Conflict
from storage.registry import training_runs
from storage.settings import Settings
from trainer.runs.cron import Cron, clock_time

log = logging.getLogger(__name__)

ALREADY = "This tick was already taken care of."


class QuietHours:
    """The hours of a day in which scheduled runs may start.

    `hours` is a setting such as `22:00-06:00`, or empty for all day; `timezone` is an IANA name.
    """

    def __init__(self, hours: str, timezone: str) -> None:
        self._zone = ZoneInfo(timezone)
        first, _, last = (hours or "00:00-00:00").partition("-")
        self._first, self._last = time.fromisoformat(first), time.fromisoformat(last)

    def include(self, moment: datetime) -> bool:
        """Whether `moment` is in these hours. The last minute is excluded; equal ends mean all day."""
        if self._first == self._last:
            return True
        return any(begin <= moment < end for begin, end in self._around(moment))

    def next_after(self, moment: datetime) -> datetime:
        """When these hours next begin, in UTC."""
        return next(begin for begin, _ in self._around(moment) if begin > moment)

    def _around(self, moment: datetime) -> Iterator[tuple[datetime, datetime]]:
        """These hours on the days around `moment`: once a day, whatever the clocks do that day."""
        today = moment.astimezone(self._zone).date()
        over_midnight = self._last <= self._first
        for day in (today + timedelta(days=days) for days in range(-2, 4)):
            last_day = day + timedelta(days=over_midnight)
            begin = clock_time(day, self._first.hour, self._first.minute, self._zone)
            end = clock_time(last_day, self._last.hour, self._last.minute, self._zone)
            if end <= begin:  # they lie in an hour that does not occur
                naive = datetime.combine(last_day, self._last) - datetime.combine(day, self._first)
                end = begin + naive
            yield begin, end


class Schedule:
    """The timer of one process. Raises BadSetting if the schedule cannot be parsed.

    `now` returns the time in UTC; a test can pass its own clock.
    """

    def __init__(
        self, database: Database, settings: Settings, now: Callable[[], datetime] = partial(datetime.now, UTC)
    ) -> None:
        self._database = database
        self._settings = settings
        self._now = now
        self._read_settings()
        self._started = False
        self._scheduler: BackgroundScheduler | None = None
        self._handling = threading.Lock()

    def start(self) -> None:
        """Handle a missed tick, once however many were missed, and start the timer."""
        self._started = True
        if self._trigger is None or self._scheduler is not None:
            return
        due_at = self._trigger.latest_until(self._now())
        with self._database.write() as session:
            # A new installation has missed nothing, however old its schedule looks.
            if due_at is not None and training_runs.last_tick(session) is None:
                outcome = "The schedule begins here; nothing was due."
                training_runs.record_tick(session, due_at, outcome=outcome)
        self._scheduler = BackgroundScheduler(timezone=UTC)
        self._look(self._trigger, self._scheduler)
        self._scheduler.start()

    def stop(self) -> None:
        """Stop the timer, after finishing a tick that is being handled."""
        scheduler, self._scheduler, self._started = self._scheduler, None, False
        if scheduler is not None:
            # APScheduler's own wait holds the lock that a tick needs to add the next job.
            with self._handling:
                scheduler.shutdown(wait=False)

    def renew(self) -> None:
        """Take over changed settings, while the timer runs or not."""
        running = self._started
        self.stop()
        self._read_settings()
        if running:
            self.start()

    def next_run_time(self) -> datetime | None:
        """When the next tick is due or a waiting one may start, in UTC; None without a schedule."""
        if self._trigger is None:
            return None
        now = self._now()
        if not self._hours.include(now) and self._pending(self._trigger, now) is not None:
            return self._hours.next_after(now)
        return self._trigger.next_after(now)

    def next_times(self, number: int) -> list[datetime]:
        """The next scheduled times, in UTC, whatever the quiet hours; none without a schedule."""
        times: list[datetime] = []
        due = self._now()
        while self._trigger is not None and len(times) < number:
            following = self._trigger.next_after(due)
            if following is None:
                break
            times.append(due := following)
        return times

    def describe(self) -> str:
        """The schedule as text, and why a run that is due has to wait, if one has."""
        if self._trigger is None:
            return "No schedule: training starts only when somebody asks for it."
        hours = f", in the hours {self._settings.quiet_hours}" if self._settings.quiet_hours else ""
        text = (
            f"Trains on `{self._settings.schedule}` ({self._settings.timezone}) "
            f"if at least {self._settings.min_new_votes} votes are new{hours}."
        )
        now = self._now()
        due_at = self._pending(self._trigger, now)
        if due_at is None or self._hours.include(now):
            return text
        begins = _shown(self._hours.next_after(now))
        return f"{text} The run that was due at {_shown(due_at)} waits for these hours, until {begins}."

    def _read_settings(self) -> None:
        self._trigger = _trigger(self._settings, self._now())
        self._hours = QuietHours(self._settings.quiet_hours, self._settings.timezone)

    def _look(self, trigger: Cron, scheduler: BackgroundScheduler) -> None:
        """Handle the tick that is due, if the hours allow it, and set the timer for the next one."""
        with self._handling:
            if self._scheduler is scheduler:
                self._handle(trigger, scheduler)

    def _handle(self, trigger: Cron, scheduler: BackgroundScheduler) -> None:
        now = self._now()
        wake_at = trigger.next_after(now)
        try:
            due_at = self._pending(trigger, now)
            if due_at is not None and self._hours.include(now):
                tick(self._database, self._settings, due_at)
            elif due_at is not None:
                wake_at = self._hours.next_after(now)
                begins = _shown(wake_at)
                log.info("Schedule of %s: it waits for the quiet hours, until %s.", _shown(due_at), begins)
        finally:
            if wake_at is not None:
                wait = wake_at - self._now()
                # APScheduler uses its own clock. By default it drops a job that is more than a second late.
                run_date = datetime.now(UTC) + wait
                scheduler.add_job(
                    self._look, "date", (trigger, scheduler), run_date=run_date, misfire_grace_time=None
                )

    def _pending(self, trigger: Cron, now: datetime) -> datetime | None:
        """The scheduled time of a tick that nobody has handled yet, or None.

        The scheduled time and not the current one, so that all schedulers write the same key.
        """
        due_at = trigger.latest_until(now)
        with self._database.read() as session:
            last = training_runs.last_tick(session)
        return due_at if due_at and last and last.due_at < due_at else None


def check_schedule(settings: Settings) -> None:
    """Raise BadSetting if the schedule cannot be parsed."""
    _trigger(settings, datetime.now(UTC))


def tick(database: Database, settings: Settings, due_at: datetime) -> str:
    """Handle one tick of the schedule, once: request a run, or record why there is none.

    Returns the outcome as text.
    """
    with database.write() as session:
        taken = training_runs.record_tick(session, due_at, outcome="")
        if taken is not None:
            new = votes.count_events_after(session, training_runs.last_trained_event_id(session))
            taken.outcome = f"No run: {new} new votes, and {settings.min_new_votes} are needed."
            if new >= settings.min_new_votes:
                try:
                    taken.run_id = training_runs.request_run(session, trigger="schedule").id
                    taken.outcome = f"Requested run {taken.run_id} for {new} new votes."
                except Conflict as conflict:
                    taken.outcome = f"No run: {conflict.message}"
        outcome = taken.outcome if taken is not None else ALREADY
    log.info("Schedule of %s: %s", _shown(due_at), outcome)
    return outcome


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _trigger(settings: Settings, now: datetime) -> Cron | None:
    if not settings.schedule.strip():
        return None
    try:
        cron = Cron(settings.schedule, ZoneInfo(settings.timezone))
        if cron.next_after(now) is None:
            raise ValueError("No such day ever comes")
    except ValueError as error:
        raise BadSetting(
            f"THUMBLOOP_SCHEDULE={settings.schedule!r} is not a schedule: {error}. Use five cron fields "
            f"(minute hour day month weekday), such as '0 3 * * *' for every night at three, a shorthand "
            f"such as @daily, or leave it empty to train only when asked.",
            field="schedule",
        ) from error
    return cron
