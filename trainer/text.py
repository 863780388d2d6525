"""Formats counts and durations for messages: "3 votes", "5 min". Pure."""


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """The number with its noun in the singular or plural; the default plural adds an s."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def spoken(seconds: float) -> str:
    """A duration in seconds, minutes or hours, whichever fits."""
    if seconds < 1.5:
        return "a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
