"""The area under the ROC curve, its standard error, and rewards without what length explains. Pure."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000


def auc(
    rewards: Sequence[float], labels: Sequence[bool], multiplicity: NDArray[np.int64] | None = None
) -> float | None:
    """Probability that a desirable row's reward exceeds an undesirable row's, ties counting half.

    `multiplicity` says how often each row counts. Returns None without both labels, and NaN if a reward is
    not finite.
    """
    up = np.asarray(labels, dtype=bool)
    times = np.ones(len(up)) if multiplicity is None else multiplicity
    _, rank = np.unique(np.asarray(rewards), return_inverse=True)
    ups = np.bincount(rank, weights=times * up)
    downs = np.bincount(rank, weights=times * ~up)
    pairs = ups.sum() * downs.sum()
    if pairs == 0:
        return None
    if not np.isfinite(rewards).all():
        return math.nan
    below = np.cumsum(downs) - downs
    return float((ups * (below + downs / 2)).sum() / pairs)


def auc_standard_error(
    rewards: Sequence[float], labels: Sequence[bool], chats: Sequence[str]
) -> float | None:
    """Bootstrap standard deviation of the AUC, resampling complete chats with a fixed seed.

    None if there is no AUC or only one chat.
    """
    names, chat = np.unique(np.asarray(chats), return_inverse=True)
    if len(names) < 2 or auc(rewards, labels) is None:
        return None
    draw = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        times = np.bincount(draw.integers(len(names), size=len(names)), minlength=len(names))
        value = auc(rewards, labels, times[chat])
        if value is not None:
            found.append(value)
    return float(np.std(found)) if found else None


def chance_standard_error(n_desirable: int, n_undesirable: int) -> float:
    """Standard error of the AUC of uninformative rewards (Mann and Whitney 1947)."""
    votes = n_desirable + n_undesirable
    return math.sqrt((votes + 1) / (12 * n_desirable * n_undesirable))


def without_length(rewards: Sequence[float], lengths: Sequence[int]) -> list[float]:
    """Residuals of a linear regression of the rewards on the lengths, rounded; NaN if one is not finite."""
    length = np.asarray(lengths, dtype=float) - np.mean(lengths)
    reward = np.asarray(rewards) - np.mean(rewards)
    square = float(length @ length)
    slope = float(length @ reward) / square if square else 0.0
    left: list[float] = (reward - slope * length).round(9).tolist()
    return left
