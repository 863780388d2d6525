"""A judge's ratings of replies, and what a mean of them says: an interval by bootstrap."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

from storage.errors import NotReady
from trainer.judge.asking import Conversation, ask_each, ask_judge
from trainer.judge.estimate import estimate
from trainer.judge.rubric import read_rubric
from trainer.judge.servers import Server
from trainer.judge.specs import ServerSpec


@dataclass(frozen=True)
class Ratings:
    """The ratings that could be read. `failed` replies have none; `faults` counts what went wrong by kind."""

    values: list[float]
    failed: int
    faults: dict[str, int]

    def to_measures(self) -> dict[str, float | None]:
        """The mean rating, its standard error and 95 % interval, and how many replies have no rating."""
        found = estimate(self.values) or dict.fromkeys(("mean", "low", "high"))
        several = len(self.values) > 1
        return {
            "judge": found["mean"],
            "judge_standard_error": stdev(self.values) / math.sqrt(len(self.values)) if several else None,
            "judge_low": found["low"],
            "judge_high": found["high"],
            "judge_failed": self.failed,
        }


def rate_replies(
    spec: ServerSpec,
    conversations: Sequence[Conversation],
    replies: Sequence[str],
    progress: Callable[[int], None] = lambda _done: None,
) -> Ratings:
    """Rate the reply to each conversation by the rubric for overall quality, from 1 to 5.

    `progress` may raise to stop. Raises NotReady if the judge is away, or none of its answers can be read.
    """
    rubric, judge = read_rubric("overall"), Server(spec)
    questions = [rubric.rating_question(*one) for one in zip(conversations, replies, strict=True)]

    def rate(number: int) -> Awaitable[dict[str, Any]]:
        return ask_judge(judge, questions[number], rubric.rating_schema(), rubric.read_rating)

    answers = ask_each(judge, len(questions), rate, progress)
    values = [float(one["verdict"]) for one in answers if one is not None and "verdict" in one]
    if not values:
        raise NotReady(
            f"No answer of {spec.name} has a rating that can be read; take another model as judge."
        )
    return Ratings(values, len(answers) - len(values), dict(sorted(judge.used.faults.items())))
