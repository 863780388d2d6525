"""How much a text repeats itself, and the liked replies that a run does not learn from for it. Pure."""

from collections.abc import Sequence

from storage.examples.example import CORRECTION
from trainer.dataset.tokenise import LeftOut, TokenisedExample


def ngrams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


def repeated(words: Sequence[str]) -> float:
    """The share of the 4-grams that occurred before; 0 for fewer than four words."""
    found = ngrams(words, 4)
    return 1 - len(set(found)) / len(found) if found else 0.0


def repeats_itself(text: str, most: float) -> bool:
    """Whether more than this share of the text's 4-grams of words occurred before in it."""
    return repeated(text.split()) > most


def without_repetition(
    rows: Sequence[TokenisedExample], dropped: LeftOut, most: float
) -> list[TokenisedExample]:
    """The rows without the liked replies that repeat more than this share of their 4-grams, in their order.

    People may like such a reply for something else, but what a model learns from it is to repeat itself. What
    a person wrote as a correction stays. The rows left out are added to `dropped`.
    """
    reason = f"a liked reply that repeats more than {most:.0%} of its 4-grams teaches to repeat"
    kept = []
    for row in rows:
        example = row.example
        text = example.completion[0]["content"]
        if row.label and example.source != CORRECTION and repeats_itself(text, most):
            dropped.add(reason, example.message_id)
        else:
            kept.append(row)
    return kept
