"""Hours in which scheduled runs may begin: over midnight, in a time zone, across a change of its clocks."""

from datetime import UTC, datetime

import pytest

from storage.errors import BadSetting
from storage.settings import load_settings
from trainer.runs.schedule import QuietHours


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("hours", "timezone", "moment", "included"),
    [
        ("22:00-06:00", "UTC", "2026-03-01T22:00", True),
        ("22:00-06:00", "UTC", "2026-03-01T05:59", True),
        ("22:00-06:00", "UTC", "2026-03-01T06:00", False),
        ("22:00-06:00", "UTC", "2026-03-01T21:59", False),
        ("01:00-05:30", "UTC", "2026-03-01T05:29", True),
        ("01:00-05:30", "UTC", "2026-03-01T05:30", False),
        ("01:00-05:30", "UTC", "2026-03-01T00:59", False),
        ("22:00-06:00", "Asia/Kolkata", "2026-03-01T16:30", True),  # 22:00 there
        ("22:00-06:00", "Asia/Kolkata", "2026-03-01T00:30", False),  # 06:00 there
        # Once a day, where clocks change too.
        ("02:15-02:45", "Europe/Berlin", "2027-03-28T01:14", False),
        (
            "02:15-02:45",
            "Europe/Berlin",
            "2027-03-28T01:15",
            True,
        ),  # these do not occur that night, so they come later
        ("02:15-02:45", "Europe/Berlin", "2027-03-28T01:45", False),
        ("02:15-02:45", "Europe/Berlin", "2026-10-25T00:15", True),
        ("02:15-02:45", "Europe/Berlin", "2026-10-25T01:15", False),  # and here they occur twice
        ("22:00-02:30", "Europe/Berlin", "2026-10-25T00:29", True),
        ("22:00-02:30", "Europe/Berlin", "2026-10-25T01:15", False),
        ("", "UTC", "2026-03-01T12:00", True),
        ("07:00-07:00", "UTC", "2026-03-01T12:00", True),
    ],
)
def test_the_first_minute_is_inside_and_the_last_is_not(
    hours: str, timezone: str, moment: str, included: bool
) -> None:
    assert QuietHours(hours, timezone).include(at(moment)) is included


@pytest.mark.parametrize(
    ("timezone", "moment", "begins"),
    [
        ("UTC", "2026-03-01T12:00", "2026-03-01T22:00"),
        ("UTC", "2026-03-01T22:00", "2026-03-02T22:00"),
        ("Asia/Kolkata", "2026-03-01T12:00", "2026-03-01T16:30"),
        ("America/Los_Angeles", "2026-03-01T07:00", "2026-03-02T06:00"),  # still the last of February there
        ("Europe/Berlin", "2026-03-28T22:00", "2026-03-29T20:00"),  # the clocks go forward that night
        ("Europe/Berlin", "2026-10-24T21:00", "2026-10-25T21:00"),  # and back
    ],
)
def test_they_begin_next_by_the_clock_of_their_zone(timezone: str, moment: str, begins: str) -> None:
    assert QuietHours("22:00-06:00", timezone).next_after(at(moment)) == at(begins)


@pytest.mark.parametrize("hours", ["22-6", "22:00", "24:00-06:00", "22:00-06:60", "at night"])
def test_what_are_no_hours_is_refused_with_an_example(hours: str) -> None:
    with pytest.raises(BadSetting, match="22:00-06:00") as refused:
        load_settings(quiet_hours=hours)
    assert (refused.value.field, repr(hours) in refused.value.message) == ("quiet_hours", True)
