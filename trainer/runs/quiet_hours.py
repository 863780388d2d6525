"""The hours of a day in which scheduled runs may begin. Pure: knows clock times and time zones only."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo


class QuietHours:
    """`hours` is a setting such as `22:00-06:00`, or empty for the whole day; `timezone` a name."""

    def __init__(self, hours: str, timezone: str) -> None:
        self._zone = ZoneInfo(timezone)
        first, _, last = (hours or "00:00-00:00").partition("-")
        self._first, self._last = time.fromisoformat(first), time.fromisoformat(last)

    def include(self, moment: datetime) -> bool:
        """The first minute is one of them, the last is not; equal ones mean the whole day."""
        clock = moment.astimezone(self._zone).time()
        if self._first < self._last:
            return self._first <= clock < self._last
        return clock >= self._first or clock < self._last

    def next_after(self, moment: datetime) -> datetime:
        """When they begin next, in UTC."""
        day = moment.astimezone(self._zone).date()
        begins = (
            datetime.combine(day + timedelta(days=days), self._first, self._zone).astimezone(UTC)
            for days in range(3)
        )
        return next(begin for begin in begins if begin > moment)
