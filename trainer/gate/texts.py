"""Repetition in a text, as a list of words. Pure."""

from collections.abc import Sequence


def ngrams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


def repeated(words: Sequence[str]) -> float:
    """The share of the 4-grams that occurred before; 0 for fewer than four words."""
    found = ngrams(words, 4)
    return 1 - len(set(found)) / len(found) if found else 0.0
