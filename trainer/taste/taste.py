"""A learned taste: how probable it is that the people who voted would like a reply. Pure.

A logistic regression on the features of the replies that were voted on. The strength of its regularisation is
chosen by cross-validation that keeps the votes of a chat together. Where its predictions for votes of other
chats are not surely better than chance, there is no taste but an `Abstention`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from trainer.taste.auc import auc, auc_standard_error, chance_standard_error
from trainer.taste.features import Features
from trainer.text import counted

Matrix = NDArray[np.float64]

MIN_VOTES = 8  # of each kind
FOLDS = 5
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # scikit-learn's C: small is strongly regularised
DIRECTIONS = 48  # principal components that are kept of each state
# The states together weigh as much as this many figures of the text.
STATE_WEIGHT = 4.0
FARTHEST = 4.0  # standard deviations, beyond which a figure of the text counts no more
CONFIDENCE = 1.64  # standard errors, 95 % one-sided
BINS = 5


@dataclass(frozen=True)
class Quality:
    """How well the votes are predicted by regressions that were not fitted on their chats.

    `brier` is the mean squared difference of the predicted probability and the vote; `brier_of_share` is that
    of always predicting the share of liked votes. `calibration_error` is the mean difference of predicted and
    true share over fifths of the votes, by prediction.
    """

    votes: int
    liked: int
    chats: int
    auc: float
    auc_standard_error: float
    brier: float
    brier_of_share: float
    brier_gain_standard_error: float  # of brier_of_share − brier, with the votes of a chat as one
    calibration_error: float

    @property
    def beats_chance(self) -> bool:
        """Whether both the order of the votes and their probabilities are surely better than without a taste.

        The AUC alone is not enough: its standard error is that of given rewards, and with random labels the
        AUC of cross-validated predictions varies more.
        """
        gain = self.brier_of_share - self.brier
        return (
            self.auc - CONFIDENCE * self.auc_standard_error > 0.5
            and gain - CONFIDENCE * self.brier_gain_standard_error > 0
        )


@dataclass(frozen=True)
class Abstention:
    """There is no taste; `reason` is a sentence. `quality` is None where there were too few votes."""

    reason: str
    quality: Quality | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Taste:
    """Scores replies by the probability that they are liked. `strength` is the regularisation's C."""

    quality: Quality
    strength: float
    _columns: "_Columns" = field(repr=False)
    _regression: Any = field(repr=False)

    def score(self, features: Sequence[Features]) -> Matrix:
        """P(liked) of each reply."""
        found: Matrix = self._regression.predict_proba(self._columns.of(features))[:, 1]
        return found

    @property
    def weights(self) -> dict[str, float]:
        """The log-odds that each figure of the text adds by its standard deviation, strongest first."""
        named = zip(self._columns.names, self._regression.coef_[0].tolist(), strict=False)
        return dict(sorted(named, key=lambda pair: -abs(pair[1])))

    @property
    def sentence(self) -> str:
        return (
            f"What people like was learned from {counted(self.quality.votes, 'vote')}: AUC "
            f"{self.quality.auc:.2f} ± {self.quality.auc_standard_error:.2f} on votes of other chats."
        )

    def to_dict(self) -> dict[str, Any]:
        return {"quality": asdict(self.quality), "strength": self.strength, "weights": self.weights}


def learn_taste(
    features: Sequence[Features], labels: Sequence[bool], chats: Sequence[str], seed: int = 0
) -> Taste | Abstention:
    """The taste of people who liked the replies with label True, or why there is none. `chats` are the chats.

    The same votes in the same order with the same seed give the same taste.
    """
    liked = np.asarray(labels, dtype=bool)
    reason = _too_few(liked, np.asarray(chats))
    if reason is not None:
        return Abstention(reason)
    predicted = _predict_unseen(features, liked, np.asarray(chats), seed)
    strength = min(STRENGTHS, key=lambda one: _log_loss(predicted[one], liked))
    quality = _quality(predicted[strength], liked, chats)
    if not quality.beats_chance:
        return Abstention(
            f"What the votes say of other chats' votes is not better than chance: AUC {quality.auc:.2f} "
            f"± {quality.auc_standard_error:.2f} over {counted(quality.votes, 'vote')}, mean squared error "
            f"{quality.brier:.3f}, and {quality.brier_of_share:.3f} without a taste.",
            quality,
        )
    columns = _Columns(features)
    return Taste(quality, strength, columns, _fit(columns.of(features), liked, strength))


def _too_few(liked: NDArray[np.bool_], chats: NDArray[Any]) -> str | None:
    for kind, chosen in (("liked", liked), ("disliked", ~liked)):
        votes, of = int(chosen.sum()), len(set(chats[chosen].tolist()))
        if votes < MIN_VOTES:
            return f"A taste needs {MIN_VOTES} {kind} replies, and there are {votes}."
        if of < FOLDS:
            return f"A taste needs {kind} replies of {FOLDS} chats, and there are {of}."
    return None


def _predict_unseen(
    features: Sequence[Features], liked: NDArray[np.bool_], chats: NDArray[Any], seed: int
) -> dict[float, Matrix]:
    """By strength, P(liked) of each vote by a regression on the votes of other chats."""
    found = {strength: np.zeros(len(liked)) for strength in STRENGTHS}
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for known, unseen in folds.split(liked, liked, chats):
        columns = _Columns([features[row] for row in known])
        old, new = (columns.of([features[row] for row in rows]) for rows in (known, unseen))
        for strength in STRENGTHS:
            found[strength][unseen] = _fit(old, liked[known], strength).predict_proba(new)[:, 1]
    return found


def _fit(columns: Matrix, liked: NDArray[np.bool_], strength: float) -> Any:
    # Classes are not weighted against each other: that would move every probability towards one half.
    return LogisticRegression(C=strength, max_iter=500).fit(columns, liked)


class _Columns:
    """Features as columns of the regression: scaled figures of the text, then directions of the states."""

    def __init__(self, features: Sequence[Features]) -> None:
        self.names = (*features[0].plain, "similarity of prompt and reply")
        self._figures = StandardScaler().fit(_figures(features))
        states = _states(features)
        self._states = StandardScaler().fit(states)
        scaled = self._states.transform(states)
        self._directions = PCA(min(DIRECTIONS, *scaled.shape), svd_solver="full").fit(scaled)
        self._weight = math.sqrt(STATE_WEIGHT / max(self._directions.explained_variance_.sum(), 1e-12))

    def of(self, features: Sequence[Features]) -> Matrix:
        figures = self._figures.transform(_figures(features)).clip(-FARTHEST, FARTHEST)
        states = self._directions.transform(self._states.transform(_states(features)))
        return np.hstack([figures, self._weight * states])


def _figures(features: Sequence[Features]) -> Matrix:
    return np.array([[*one.plain.values(), one.similarity] for one in features])


def _states(features: Sequence[Features]) -> Matrix:
    return np.array([one.reply_state for one in features], dtype=np.float64)


def _quality(predicted: Matrix, liked: NDArray[np.bool_], chats: Sequence[str]) -> Quality:
    labels = liked.tolist()
    found = auc(predicted.tolist(), labels)
    assert found is not None  # _too_few has seen both kinds
    ups = int(liked.sum())
    downs = len(liked) - ups
    error = auc_standard_error(predicted.tolist(), labels, chats) or 0.0
    bins = np.array_split(np.argsort(predicted, kind="stable"), BINS)
    gaps = [abs(predicted[rows].mean() - liked[rows].mean()) * len(rows) for rows in bins]
    without, squared = (liked.mean() - liked) ** 2, (predicted - liked) ** 2
    _, chat = np.unique(np.asarray(chats), return_inverse=True)
    gains = without - squared
    by_chat = np.bincount(chat, weights=gains - gains.mean())
    return Quality(
        votes=len(liked),
        liked=ups,
        chats=len(set(chats)),
        auc=found,
        auc_standard_error=max(error, chance_standard_error(ups, downs)),
        brier=float(squared.mean()),
        brier_of_share=float(without.mean()),
        brier_gain_standard_error=float(np.linalg.norm(by_chat) / len(liked)),
        calibration_error=float(sum(gaps) / len(liked)),
    )


def _log_loss(predicted: Matrix, liked: NDArray[np.bool_]) -> float:
    return float(-np.log(np.where(liked, predicted, 1 - predicted)).mean())
