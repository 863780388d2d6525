"""Examples made of judged replies: pairs of the best and the worst, and KTO rows."""

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any

Row = Mapping[str, Any]


def scores(row: Row) -> list[float | None]:
    """The score of each reply: its mean rating, or the share of its comparisons that it won, a tie as half.

    None for a reply without a verdict.
    """
    if "comparisons" not in row:
        return [reply.get("rating") for reply in row["replies"]]
    points: list[list[float]] = [[] for _ in row["replies"]]
    for one in row["comparisons"]:
        if "winner" in one:
            for side in (one["left"], one["right"]):
                points[side].append(0.5 if one["winner"] is None else float(one["winner"] == side))
    return [fmean(found) if found else None for found in points]


def pair_rows(rows: Iterable[Row], min_difference: float | None = None) -> Iterator[dict[str, Any]]:
    """The best and the worst reply of each conversation, where their scores differ by `min_difference`.

    Its default is a quarter of the scale. Of replies with one score, the first counts. The columns are those
    of TRL's preference data, and the models and ratings of both.
    """
    for row in rows:
        rated = [(score, -place) for place, score in enumerate(scores(row)) if score is not None]
        if not rated:
            continue
        (best, chosen), (worst, rejected) = max(rated), min(rated, key=lambda one: (one[0], -one[1]))
        least = min_difference if min_difference is not None else _quarter(row)
        if best == worst or best - worst < least:
            continue
        sides = {"chosen": (row["replies"][-chosen], best), "rejected": (row["replies"][-rejected], worst)}
        yield {
            "prompt": row["prompt"],
            **{name: _as_completion(reply["content"]) for name, (reply, _) in sides.items()},
            **{f"{name}_model": reply["model"] for name, (reply, _) in sides.items()},
            **{f"rating_{name}": score for name, (_, score) in sides.items()},
            "judged_by": row["judge"],
        }


def kto_rows(
    rows: Iterable[Row], up_from: float | None = None, down_to: float | None = None
) -> Iterator[dict[str, Any]]:
    """Each reply whose score is from `up_from` on or up to `down_to` as a row of KTO data.

    The defaults are the uppermost and the lowest quarter of the scale: 4 and 2 of 1 to 5.
    """
    for row in rows:
        low, _ = row["scale"]
        up = up_from if up_from is not None else _good_from(row)
        down = down_to if down_to is not None else low + _quarter(row)
        for reply, score in zip(row["replies"], scores(row), strict=True):
            if score is None or down < score < up:
                continue
            reason = next((one["reason"] for one in reply.get("ratings", ()) if one.get("reason")), None)
            yield {
                "prompt": row["prompt"],
                "completion": _as_completion(reply["content"]),
                "label": score >= up,
                "rating": score,
                "model": reply["model"],
                **({} if reply.get("finished", True) else {"finish_reason": "length"}),
                "judged_by": row["judge"],
                **({"comment": reason} if reason else {}),
            }


def likes(row: Row, score: float) -> bool:
    """Whether a score is in the uppermost quarter of the scale."""
    return score >= _good_from(row)


def _good_from(row: Row) -> float:
    return float(row["scale"][1]) - _quarter(row)


def _as_completion(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _quarter(row: Row) -> float:
    low, high = row["scale"]
    return float(high - low) / 4
