"""What is to be thought of a judge: its faults, its biases, and whether it agrees with people."""

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from app.judge.examples import scores
from storage.chats.proportions import cohens_kappa, exact_interval
from trainer.judge.servers import Server

Row = Mapping[str, Any]
RESAMPLES = 2000


def judge_report(rows: Sequence[Row], judge: Server, *, seed: int = 0) -> dict[str, Any]:
    """Counts, means by author, and the known biases of judges.

    `length_correlation` is Spearman's ρ between score and length in words. `first_wins` counts, of all
    answers about pairs that are no tie, those for the reply that stood first: half, if the order does not
    matter. `own_family` names the authors of the judge's family by the beginning of their names.
    """
    by_author: dict[str, list[float]] = defaultdict(list)
    lengths, rated = [], []
    for row in rows:
        for reply, score in zip(row["replies"], scores(row), strict=True):
            if score is not None:
                by_author[reply["model"]].append(score)
                lengths.append(len(reply["content"].split()))
                rated.append(score)
    family = _family(judge.spec.model)
    return {
        "judge": judge.spec.name,
        "scale": rows[0]["scale"] if rows else None,
        "conversations": len(rows),
        "rated": len(rated),
        **_verdicts(rows),
        "authors": {
            author: {"replies": len(found), "mean": fmean(found), "own_family": _family(author) == family}
            for author, found in sorted(by_author.items())
        },
        "length_correlation": _spearman(lengths, rated),
        "people": agreement(rows, seed=seed),
        "used": used(judge),
    }


def used(server: Server) -> dict[str, Any]:
    """What was asked of a server in this process, and its faults by kind, retried ones included."""
    found = server.used
    cost = server.spec.cost(found.prompt_tokens, found.completion_tokens)
    return {
        "calls": found.calls,
        "prompt_tokens": found.prompt_tokens,
        "completion_tokens": found.completion_tokens,
        **({} if cost is None else {"cost": cost}),
        "faults": dict(sorted(found.faults.items())),
    }


def agreement(rows: Sequence[Row], *, seed: int = 0) -> dict[str, Any] | None:
    """How far the judge agrees with people's votes: accuracy and Cohen's κ with 95 % intervals.

    A score in the upper half of the scale is a thumb up, in the lower half a thumb down; in the middle it is
    none. The intervals are from resampling conversations. None without replies that both have judged.
    """
    groups: list[list[tuple[bool, bool]]] = []
    for row in rows:
        middle = sum(row["scale"]) / 2
        group = [
            (bool(reply["vote"]), score > middle)
            for reply, score in zip(row["replies"], scores(row), strict=True)
            if score is not None and score != middle and reply.get("vote") is not None
        ]
        if group:
            groups.append(group)
    if not groups:
        return None
    draw = random.Random(seed)
    resampled = [
        _agreed([pair for group in draw.choices(groups, k=len(groups)) for pair in group])
        for _ in range(RESAMPLES)
    ]
    accuracy, kappa = _agreed([pair for group in groups for pair in group])
    return {
        "replies": sum(map(len, groups)),
        "accuracy": accuracy,
        "accuracy_interval": _interval([one for one, _ in resampled]),
        "kappa": kappa,
        "kappa_interval": _interval([one for _, one in resampled if one is not None]),
    }


def _verdicts(rows: Sequence[Row]) -> dict[str, Any]:
    ratings = [one for row in rows for reply in row["replies"] for one in reply.get("ratings", ())]
    pairs = [one for row in rows for one in row.get("comparisons", ())]
    faults = [*ratings, *(fault for one in pairs for fault in one.get("faults", ()))]
    found: dict[str, Any] = {
        "unparsable": sum("unparsable" in one for one in faults),
        "errors": sum("error" in one for one in faults),
        "without_reply": sum("error" in reply for row in rows for reply in row["replies"]),
    }
    if any("comparisons" in row for row in rows):
        both = [one for one in pairs if "winner" in one]
        won = [order for one in both for order in one["won"] if order != "tie"]
        first = sum(order == "first" for order in won)
        interval = exact_interval(first, len(won))
        found |= {
            "comparisons": len(both),
            "ties": sum(one["winner"] is None for one in both),
            "first_wins": first / len(won) if won else None,
            "first_wins_interval": [interval.low, interval.high],
        }
    return found


def _agreed(pairs: Sequence[tuple[bool, bool]]) -> tuple[float, float | None]:
    """Accuracy, and Cohen's κ, None if undefined."""
    total = len(pairs)
    same = sum(vote == judged for vote, judged in pairs) / total
    voted, judged = (sum(pair[side] for pair in pairs) for side in (0, 1))
    return same, cohens_kappa(sum(all(pair) for pair in pairs), voted, judged, total)


def _interval(values: Sequence[float]) -> list[float] | None:
    if not values:
        return None
    ordered = sorted(values)
    return [ordered[int(0.025 * len(ordered))], ordered[min(len(ordered) - 1, int(0.975 * len(ordered)))]]


def _spearman(lengths: Sequence[int], found: Sequence[float]) -> float | None:
    if len(set(lengths)) < 2 or len(set(found)) < 2:
        return None
    from scipy.stats import spearmanr  # loads for a second

    value = float(spearmanr(lengths, found).statistic)
    return None if math.isnan(value) else value


def _family(model: str) -> str:
    """The first word of a model's name, without the organisation: gpt of openai/gpt-5-mini."""
    name = model.rsplit("/", 1)[-1].lower()
    return name.replace("_", "-").replace(".", "-").split("-")[0].rstrip("0123456789")
