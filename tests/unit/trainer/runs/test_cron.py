"""Cron lines: fields as in cron, and each time once, also where clocks change."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.runs.cron import Cron


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "timezone", "after", "expected"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
        ("30 2 * * *", "Europe/Berlin", "2027-03-27T12:00", ["2027-03-28T01:30", "2027-03-29T00:30"]),
        ("0 0 * * *", "America/Havana", "2027-03-13T12:00", ["2027-03-14T05:00", "2027-03-15T04:00"]),
        ("@daily", "America/Havana", "2027-03-13T12:00", ["2027-03-14T05:00", "2027-03-15T04:00"]),
        (
            "0 3 13 * 5",
            "UTC",
            "2026-11-01T00:00",
            ["2026-11-06T03:00", "2026-11-13T03:00", "2026-11-20T03:00"],
        ),
        ("0 3 13 * *", "UTC", "2026-11-01T00:00", ["2026-11-13T03:00", "2026-12-13T03:00"]),
        ("0 3 */10 * 5", "UTC", "2026-11-01T12:00", ["2026-12-11T03:00"]),
        (
            "0 3 * * 5-7",
            "UTC",
            "2026-11-01T12:00",
            ["2026-11-06T03:00", "2026-11-07T03:00", "2026-11-08T03:00"],
        ),
        ("5/20 3 * JAN Mon", "UTC", "2026-11-01T12:00", ["2027-01-04T03:05", "2027-01-04T03:25"]),
        ("@weekly", "UTC", "2026-11-01T12:00", ["2026-11-08T00:00"]),
        ("@monthly", "UTC", "2026-11-01T12:00", ["2026-12-01T00:00"]),
        ("@yearly", "UTC", "2026-11-01T12:00", ["2027-01-01T00:00"]),
        ("@hourly", "UTC", "2026-11-01T12:00", ["2026-11-01T13:00"]),
        ("0 0 29 2 *", "UTC", "2026-11-01T12:00", ["2028-02-29T00:00"]),
    ],
)
def test_the_times_of_a_line(line: str, timezone: str, after: str, expected: list[str]) -> None:
    cron, moment = Cron(line, ZoneInfo(timezone)), at(after)
    for each in expected:
        following = cron.next_after(moment)
        assert following == at(each)
        assert cron.latest_until(following) == following
        moment = following


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1)),
    st.sampled_from(["30 2 * * *", "0 0 * * *", "*/20 1-3 * * *", "59 23 * * *", "0 3 1 * 0"]),
    st.sampled_from(["Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]),
)
def test_forwards_and_backwards_agree(moment: datetime, line: str, timezone: str) -> None:
    cron, now = Cron(line, ZoneInfo(timezone)), moment.replace(tzinfo=UTC)
    latest, following = cron.latest_until(now), cron.next_after(now)
    assert latest is not None
    assert following is not None
    assert latest <= now < following
    assert cron.next_after(latest) == following


@pytest.mark.parametrize(
    "line", ["@reboot", "@often", "x * * * *", "*/0 * * * *", "1-0 * * * *", "0 3 0 * *"]
)
def test_what_is_no_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="is not|It has|neither"):
        Cron(line, ZoneInfo("UTC"))
