"""Measures of sampled replies that show whether the text has suffered. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TextMeasures:
    """Means over the replies; shares are from 0 to 1.

    `repeated_4grams` is the mean share of a reply's 4-grams of words that occurred in it before;
    `distinct_2grams` the share of different 2-grams over all replies (Li et al. 2016, arXiv 1510.03055).
    """

    replies: int
    words: float
    finished: float
    empty: float
    repeated_4grams: float
    distinct_2grams: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_texts(texts: Sequence[str], finished: Sequence[bool]) -> TextMeasures:
    """The measures of at least one reply."""
    count = len(texts)
    words = [text.split() for text in texts]
    pairs = [pair for text in words for pair in ngrams(text, 2)]
    return TextMeasures(
        replies=count,
        words=sum(map(len, words)) / count,
        finished=sum(finished) / count,
        empty=sum(not text for text in words) / count,
        repeated_4grams=sum(map(repeated, words)) / count,
        distinct_2grams=len(set(pairs)) / len(pairs) if pairs else 0.0,
    )


def ngrams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


def repeated(words: Sequence[str]) -> float:
    """The share of the 4-grams that occurred before; 0 for fewer than four words."""
    found = ngrams(words, 4)
    return 1 - len(set(found)) / len(found) if found else 0.0
