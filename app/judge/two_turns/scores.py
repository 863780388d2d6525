"""What ratings and comparisons say of a version: means with bootstrap intervals over the questions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.judge.estimate import estimate

TURNS = ("first", "second")
VALUES = {"win": 1.0, "tie": 0.5, "loss": 0.0}

Line = Mapping[str, Any]  # of one version and question, as `evaluation.py` describes it


def score(lines: Sequence[Line]) -> dict[str, Any]:
    """A version's scores of each turn and both, all in all and by category.

    `average` is over the questions with a rating of both turns, so that a missing one does not favour a turn.
    """
    categories = dict.fromkeys(line["category"] for line in lines)
    return _turns(lines) | {
        "categories": {
            name: _turns([line for line in lines if line["category"] == name]) for name in categories
        }
    }


def compare(lines: Sequence[Line], baseline: Sequence[Line]) -> dict[str, Any]:
    """A version against the baseline: won, tied and lost turns, and the difference of their averages.

    `by_place` of the ties are so because the judge preferred a place to a reply.
    """
    results = [[turn.get("result") for turn in line["turns"]] for line in lines]
    single = [result for both in results for result in both]
    known = [[VALUES[result] for result in both if result in VALUES] for both in results]
    other = {line["question_id"]: _average(line) for line in baseline}
    pairs = [(_average(line), other[line["question_id"]]) for line in lines]
    return {
        **{result: single.count(result) for result in VALUES},
        "by_place": sum(_is_by_place(turn) for line in lines for turn in line["turns"]),
        "no_result": single.count(None),
        "win_rate": estimate([sum(values) / len(values) for values in known if values]),
        "difference": estimate([own - base for own, base in pairs if own is not None and base is not None]),
    }


def count_faults(lines: Iterable[Line]) -> dict[str, int]:
    """Turns without a reply, with one that the token limit cut, and without a rating, by the reason."""
    turns = [turn for line in lines for turn in line["turns"]]
    return {
        "no_reply": sum("reply" not in turn for turn in turns),
        "cut": sum(not turn.get("finished", True) for turn in turns),
        "unparsable_ratings": sum("unparsable" in turn.get("rating", {}) for turn in turns),
        "failed_ratings": sum("error" in turn.get("rating", {}) for turn in turns),
    }


def _turns(lines: Sequence[Line]) -> dict[str, Any]:
    ratings = [_ratings(line) for line in lines]
    scores: dict[str, Any] = {
        name: estimate([both[place] for both in ratings if both[place] is not None])
        for place, name in enumerate(TURNS)
    }
    averages = [average for line in lines if (average := _average(line)) is not None]
    return {**scores, "average": estimate(averages)}


def _ratings(line: Line) -> list[Any]:
    return [turn.get("rating", {}).get("verdict") for turn in line["turns"]]


def _average(line: Line) -> float | None:
    first, second = _ratings(line)
    return None if first is None or second is None else (first + second) / 2


def _is_by_place(turn: Mapping[str, Any]) -> bool:
    """Whether the reply on one side won, whichever was there."""
    return [one.get("verdict") for one in turn.get("orders", [])] in (["left"] * 2, ["right"] * 2)
