"""Times of a cron line, as Vixie cron means them, by the clock of a time zone.

Each time of the line comes once. At a time that occurs twice, because clocks are set back, it comes at the
first; one that does not occur, because clocks are set forward, comes that much later.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# The least and the largest value of each field, and the names for values from the least on.
FIELDS = ((0, 59, ()), (0, 23, ()), (1, 31, ()), (1, 12, MONTHS), (0, 7, WEEKDAYS))
SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
PART = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?")
LONGEST_PAUSE = 366 * 50  # days: a 29 February that is a Monday comes every 28 years
ONE_DAY = timedelta(days=1)


def clock_time(day: date, hour: int, minute: int, zone: ZoneInfo) -> datetime:
    """The moment of a time of day, in UTC, also at a change of the clocks."""
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).astimezone(UTC)


class Cron:
    """A line of five fields, or a shorthand such as @daily. Raises ValueError."""

    def __init__(self, line: str, zone: ZoneInfo) -> None:
        fields = SHORTHANDS.get(line.strip().lower(), line).split()
        if len(fields) != len(FIELDS):
            raise ValueError(f"It has {len(fields)} fields")
        values = [_values(field, *limits) for field, limits in zip(fields, FIELDS, strict=True)]
        self._minutes, self._hours, self._days, self._months, weekdays = values
        self._weekdays = {day % 7 for day in weekdays}  # Sunday is 0 or 7
        # As in cron: if both are restricted, a day that matches either is due.
        self._either = not fields[2].startswith("*") and not fields[4].startswith("*")
        self._zone = zone

    def next_after(self, moment: datetime) -> datetime | None:
        """The first time after `moment`, in UTC; None if none comes for decades."""
        return min(self._near(moment, ONE_DAY, lambda due: due > moment), default=None)

    def latest_until(self, moment: datetime) -> datetime | None:
        """The last time up to `moment`, in UTC; None if there was none for decades."""
        return max(self._near(moment, -ONE_DAY, lambda due: due <= moment), default=None)

    def _near(self, moment: datetime, step: timedelta, wanted: Callable[[datetime], bool]) -> set[datetime]:
        """The wanted times of the first day in this direction that has any, and of the two days after it."""
        found: set[datetime] = set()
        left = 3  # a change of the clocks may swap times of neighbouring days
        day = moment.astimezone(self._zone).date() - 2 * step
        for _ in range(LONGEST_PAUSE):
            found |= {due for due in self._of(day) if wanted(due)}
            left -= bool(found)
            if not left:
                break
            day += step
        return found

    def _of(self, day: date) -> Iterator[datetime]:
        of_month, of_week = day.day in self._days, day.isoweekday() % 7 in self._weekdays
        if day.month in self._months and (of_month or of_week if self._either else of_month and of_week):
            for hour in self._hours:
                for minute in self._minutes:
                    yield clock_time(day, hour, minute, self._zone)


def _values(field: str, least: int, most: int, names: tuple[str, ...]) -> set[int]:
    known = {name: number for number, name in enumerate(names, least)}
    values: set[int] = set()
    for part in field.lower().split(","):
        found = PART.fullmatch(part)
        if found is None:
            raise ValueError(f"{part!r} is neither a number, a range nor *")
        star, first, last, step = found.groups()
        begin = least if star else _number(first, known)
        # `5/10` begins at 5 and goes on to the end.
        end = most if star or (step and not last) else _number(last or first, known)
        if not least <= begin <= end <= most or step == "0":
            raise ValueError(f"{part!r} is not in {least}-{most}")
        values.update(range(begin, end + 1, int(step or 1)))
    return values


def _number(text: str, known: dict[str, int]) -> int:
    if text not in known and not text.isdecimal():
        raise ValueError(f"{text!r} is not a number")
    return known[text] if text in known else int(text)
