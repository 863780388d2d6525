"""A mean with its interval, by bootstrap. Pure."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
LIKELY = 0.95  # of an interval


def estimate(values: Sequence[float], seed: int = 0) -> dict[str, float] | None:
    """The mean of a value a question and its 95 % interval: a percentile bootstrap over the questions."""
    if not values:
        return None
    given = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).integers(len(given), size=(RESAMPLES, len(given)))
    ends = np.quantile(given[draws].mean(axis=1), [(1 - LIKELY) / 2, (1 + LIKELY) / 2])
    return {
        "mean": float(given.mean()),
        "low": float(ends[0]),
        "high": float(ends[1]),
        "questions": len(given),
    }
