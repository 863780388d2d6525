"""The coordinates of the charts on the admin's pages. Pure; `charts.html` has the shapes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.api.schemas import ApprovalOut

WIDTH, HEIGHT = 720, 200  # of the approval chart's plot
CURVE = (300, 80)
MOST_VERSIONS = 24


@dataclass(frozen=True)
class Curve:
    """A quantity over the steps of a training. `path` is in the coordinates of CURVE."""

    title: str
    path: str
    low: float
    high: float
    latest: float
    first: int
    last: int


def curve(title: str, points: Sequence[tuple[int, float | None]]) -> Curve | None:
    """None for fewer than two points."""
    known = [(x, y) for x, y in points if y is not None]
    if len(known) < 2:
        return None
    low, high = min(y for _, y in known), max(y for _, y in known)
    first, last = known[0][0], known[-1][0]
    width, height = CURVE

    def place(x: float, y: float) -> str:
        across = (x - first) / ((last - first) or 1) * width
        return f"{across:.1f},{height - (y - low) / ((high - low) or 1) * height:.1f}"

    return Curve(title, " ".join(place(x, y) for x, y in known), low, high, known[-1][1], first, last)


def run_curves(progress: dict[str, Any]) -> list[Curve]:
    """The curves of a training, from the points that its progress keeps."""
    points = progress.get("curve") or []
    titles = ("Loss", "Margin of rewards", "z0, the KL estimate")
    drawn = [curve(title, [(row[0], row[at]) for row in points]) for at, title in enumerate(titles, 1)]
    return [one for one in drawn if one is not None]


@dataclass(frozen=True)
class ApprovalPoint:
    """The approval of a version at `x`, and the ends of its interval, all in the plot's coordinates."""

    version: str
    x: float
    y: float
    low: float
    high: float
    label: str


def approval_points(approval: Sequence[ApprovalOut]) -> list[ApprovalPoint]:
    """The newest versions with votes, the oldest of them first."""
    rated = [one for one in approval if one.approval is not None][:MOST_VERSIONS][::-1]
    room = WIDTH / max(len(rated), 1)
    return [
        ApprovalPoint(
            one.version,
            *(room * (number + 0.5), _height(one.approval or 0.0), _height(one.low), _height(one.high)),
            f"{one.version}: {one.approval:.0%}, with 95 % confidence {one.low:.0%} to {one.high:.0%}; "
            f"{one.up} up, {one.down} down",
        )
        for number, one in enumerate(rated)
    ]


def _height(share: float) -> float:
    return HEIGHT * (1 - share)
