"""Numbers and durations as people say them. Pure."""


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """The number and its noun, of which only a single one has the singular."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def spoken(seconds: float) -> str:
    """A duration in the unit that fits."""
    if seconds < 1.5:
        return "a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
