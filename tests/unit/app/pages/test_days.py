"""The list of chats is grouped by the days of the person's own calendar."""

from datetime import UTC, datetime, timedelta

import pytest

from app.pages.chat.days import by_day, known_zone
from storage.db.tables import Chat

NOW = datetime(2026, 5, 10, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hours", "day"),
    [(1, "today"), (2, "yesterday"), (25, "yesterday"), (26, "week"), (169, "week")],
)
def test_a_chat_stands_under_the_day_it_began(hours: int, day: str) -> None:
    began = NOW - timedelta(hours=hours)
    assert list(by_day([Chat(owner_id="u", created_at=began)], "UTC", NOW)) == [day]


def test_days_are_those_of_the_time_zone() -> None:
    chats = [
        Chat(owner_id="u", title=str(n), created_at=NOW - timedelta(hours=24 * n + 3)) for n in range(10)
    ]
    groups = by_day(chats, "America/New_York", NOW)  # where it is still yesterday evening
    shown = {day: [chat.title for chat in group] for day, group in groups.items()}
    week = ["2", "3", "4", "5", "6", "7"]
    assert shown == {"today": ["0"], "yesterday": ["1"], "week": week, "older": ["8", "9"]}


@pytest.mark.parametrize(
    "name", ["Nowhere/Town", "America", "../etc/passwd", "", None, 7, "x" * 1000, "a\0b"]
)
def test_an_unknown_time_zone_is_utc(name: object) -> None:
    assert known_zone(name) == "UTC"
    assert known_zone("Europe/Berlin") == "Europe/Berlin"
