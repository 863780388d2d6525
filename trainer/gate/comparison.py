"""Compares the sampled replies of two versions, prompt by prompt. Pure.

To add a measure of harm, add a field to `Sampled`, a row to `HARMS`, and a setting for its tolerance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.settings import Settings
from trainer.dataset.repetition import repeated
from trainer.gate.texts import distinct_pairs, is_in_another_language, is_refusal

Values = NDArray[np.float64]

RESAMPLES = 2000
SURE = 0.95  # of a harm, in addition to its tolerance


@dataclass(frozen=True)
class General:
    """How a version reads general texts, one value for each, in nats a token.

    `log_probability` is the mean log π of its tokens. `kl` is the mean over its positions of
    KL(π ‖ base) = Σ π (log π − log π_base), exact over the vocabulary.
    """

    log_probability: Values
    kl: Values


@dataclass(frozen=True)
class Sampled:
    """A version's replies to the gate's prompts, one value for each prompt, in their order.

    `taste` is P(liked) by the learned taste, None without one. `log_probability` is the base model's mean
    log-probability of a token, in nats: low for text that the base model would not write. `other_language`
    and `refusal` are 0 or 1. `general` and `kl` are those of `General`, by text.
    """

    words: Values
    finished: Values
    empty: Values
    repetition: Values
    other_language: Values
    refusal: Values
    log_probability: Values
    general: Values
    kl: Values
    distinct_2grams: float
    taste: Values | None = None

    def to_dict(self) -> dict[str, float]:
        """The means."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: float(np.mean(value)) for name, value in values.items() if value is not None}


def sampled(
    prompts: Sequence[str],
    texts: Sequence[str],
    finished: Sequence[bool],
    log_probabilities: Sequence[float],
    general: General,
    taste: Values | None = None,
) -> Sampled:
    """`texts` are the replies to `prompts`; the other lists belong to them."""
    words = [text.split() for text in texts]
    return Sampled(
        words=np.array([len(one) for one in words], dtype=float),
        finished=np.array(finished, dtype=float),
        empty=np.array([not one for one in words], dtype=float),
        repetition=np.array([repeated(one) for one in words]),
        other_language=np.array(list(map(is_in_another_language, prompts, texts)), dtype=float),
        refusal=np.array(list(map(is_refusal, texts)), dtype=float),
        log_probability=np.array(log_probabilities),
        general=general.log_probability,
        kl=general.kl,
        distinct_2grams=distinct_pairs(words),
        taste=taste,
    )


@dataclass(frozen=True)
class Harm:
    """A measure that must not get worse than the base model's by more than `gate_NAME_tolerance`."""

    name: str  # the field of `Sampled`
    title: str
    more_is_better: bool


HARMS = (
    Harm("finished", "share of replies that end by themselves", more_is_better=True),
    Harm("empty", "share of empty replies", more_is_better=False),
    Harm("repetition", "share of repeated 4-grams", more_is_better=False),
    Harm("other_language", "share of replies in another language than the prompt", more_is_better=False),
    Harm("refusal", "share of refusals", more_is_better=False),
    Harm("log_probability", "log-probability a token under the base model", more_is_better=True),
    Harm("general", "log-probability a token of general texts", more_is_better=True),
)


def probability_better(new: Values, old: Values) -> float:
    """Probability that the mean over prompts of `new` exceeds that of `old`: a paired bootstrap by prompt.

    A tie counts half. The seed is fixed, so equal values give equal results.
    """
    difference = new - old
    draws = np.random.default_rng(0).integers(len(difference), size=(RESAMPLES, len(difference)))
    means = difference[draws].mean(axis=1)
    return float(((means > 0) + 0.5 * (means == 0)).mean())


def find_harms(new: Sampled, base: Sampled, settings: Settings) -> list[str]:
    """What has got worse than the base model's, by more than its tolerance and surely; a phrase for each."""
    found = []
    for harm in HARMS:
        values, usual = getattr(new, harm.name), getattr(base, harm.name)
        worse = usual - values if harm.more_is_better else values - usual
        tolerance = getattr(settings, f"gate_{harm.name}_tolerance")
        surely = probability_better(worse, np.zeros(len(worse))) >= SURE
        if not np.isfinite(worse).all() or (worse.mean() > tolerance and surely):
            found.append(f"{harm.title} {values.mean():.3g} against {usual.mean():.3g}")
    return found


def needed_confidence(settings: Settings, looks: int) -> float:
    """The probability that each of so many looks at the evidence asks for.

    Together they are wrong no more often than one that asks for `gate_confidence` (Bonferroni).
    """
    return 1 - (1 - settings.gate_confidence) / looks


def is_good_enough(
    new: Sampled, old: Sampled, base: Sampled, settings: Settings, *, confidence: float
) -> bool:
    """Whether replies do no harm, and the taste, if there is one, surely prefers them to the old ones."""
    if find_harms(new, base, settings):
        return False
    if new.taste is None or old.taste is None:
        return True
    return probability_better(new.taste, old.taste) >= confidence


def is_open(new: Sampled, old: Sampled, base: Sampled, settings: Settings, *, confidence: float) -> bool:
    """Whether replies do no harm, and the taste says neither that they are better nor that they are worse."""
    if new.taste is None or old.taste is None or find_harms(new, base, settings):
        return False
    return 1 - confidence < probability_better(new.taste, old.taste) < confidence


def choose_strength(candidates: dict[float, Sampled], base: Sampled, settings: Settings) -> float:
    """The strength whose replies the taste likes best, of those that do no harm; 0 if all do.

    Without a taste it is the largest of them. Among equals it is the smallest.
    """
    harmless = {strength: one for strength, one in candidates.items() if not find_harms(one, base, settings)}
    if not harmless:
        return 0.0
    if base.taste is None:
        return max(harmless)
    means: dict[float, Any] = {strength: one.to_dict()["taste"] for strength, one in harmless.items()}
    return max(sorted(means), key=lambda strength: means[strength])
