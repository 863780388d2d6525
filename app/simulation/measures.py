"""Measures of sampled replies: how many are liked, and whether the text has suffered. Pure."""

from collections.abc import Sequence
from typing import Any

from app.simulation.tastes import SimulatedReply, Taste
from storage.chats.proportions import exact_interval
from trainer.dataset.repetition import repeated
from trainer.gate.texts import distinct_pairs


def measure(replies: Sequence[SimulatedReply], taste: Taste) -> dict[str, Any]:
    """The measures of at least one reply; shares are from 0 to 1.

    `low` and `high` bound `liked` by its 95 % interval. `repeated_4grams` is the mean share of a reply's
    4-grams of words that occurred in it before; `distinct_2grams` the share of different 2-grams over all
    replies.
    """
    count = len(replies)
    liked = sum(map(taste, replies))
    interval = exact_interval(liked, count)
    words = [reply.text.split() for reply in replies]
    return {
        "replies": count,
        "liked": liked / count,
        "low": interval.low,
        "high": interval.high,
        "words": sum(map(len, words)) / count,
        "finished": sum(reply.finished for reply in replies) / count,
        "empty": sum(not text for text in words) / count,
        "repeated_4grams": sum(map(repeated, words)) / count,
        "distinct_2grams": distinct_pairs(words),
    }
