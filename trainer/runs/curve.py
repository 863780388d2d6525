"""The course of a training for people to see: a bounded number of its steps."""

import math
from collections.abc import Mapping
from typing import Any

MOST_POINTS = 200


class TrainingCurve:
    """Points of [step, loss, margin of the rewards, z0]; what is unknown is None.

    Beyond MOST_POINTS every second one is dropped, and from then on only every second step is kept.
    """

    def __init__(self, points: list[list[float | None]] | None = None) -> None:
        self.points = points or []
        self._every = 1

    def add(self, state: Mapping[str, Any]) -> None:
        """Add a step, and drop what an earlier attempt noted from that step on."""
        step = state["step"]
        self.points = [point for point in self.points if (point[0] or 0) < step]
        if step % self._every:
            return
        self.points.append([step, *(_finite(state.get(name)) for name in ("loss", "margin", "kl"))])
        if len(self.points) > MOST_POINTS:
            self._every *= 2
            self.points = self.points[::2]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
