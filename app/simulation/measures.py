"""Measures of sampled replies: how many are liked, and whether the text has suffered. Pure."""

from collections.abc import Sequence
from typing import Any

from app.simulation.tastes import SimulatedReply, Taste
from storage.chats.proportions import exact_interval
from trainer.gate.texts import measure_texts


def measure(replies: Sequence[SimulatedReply], taste: Taste) -> dict[str, Any]:
    """The measures of at least one reply: `liked` from 0 to 1 with its 95 % interval `low` to `high`,
    and those of `TextMeasures`.
    """
    liked = sum(map(taste, replies))
    interval = exact_interval(liked, len(replies))
    shares = {"liked": liked / len(replies), "low": interval.low, "high": interval.high}
    texts = measure_texts([reply.text for reply in replies], [reply.finished for reply in replies])
    return shares | texts.to_dict()
