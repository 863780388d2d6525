"""The list of chats by the day that each began, in the person's time zone. Pure functions."""

from collections.abc import Iterable
from datetime import date, datetime
from zoneinfo import ZoneInfo

from storage.db.tables import Chat


def known_zone(name: object) -> str:
    """The name of a time zone as a browser gives it, or UTC if nobody knows it."""
    try:
        return ZoneInfo(str(name)).key
    except (LookupError, OSError, ValueError):  # ValueError: no relative path; OSError: a folder of zones
        return "UTC"


def by_day(chats: Iterable[Chat], zone: str, now: datetime) -> dict[str, list[Chat]]:
    """The chats under `today`, `yesterday`, `week` and `older`, in the order given."""
    where = ZoneInfo(zone)
    today = now.astimezone(where).date()
    groups: dict[str, list[Chat]] = {}
    for chat in chats:
        groups.setdefault(_day(today, chat.created_at.astimezone(where).date()), []).append(chat)
    return groups


def _day(today: date, began: date) -> str:
    days = (today - began).days
    return "today" if days < 1 else "yesterday" if days == 1 else "week" if days <= 7 else "older"
