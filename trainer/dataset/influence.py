"""How much of what a run learns each person gives: the share of each kind's weight. Pure.

It stands for the influence of a person. Training again without each of them would measure it, at the price
of a training for each person.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from trainer.dataset.selection import is_imported
from trainer.dataset.tokenise import TokenisedExample

MOST_ACTIVE = 5


def influence(rows: Sequence[TokenisedExample]) -> list[dict[str, Any]]:
    """The people who give the most: `user_id`, their shares `up` and `down` of the weight, and their `rows`.

    Imported rows name nobody. They count in the whole, not as a person's.
    """
    whole = {True: 0.0, False: 0.0}
    given: dict[str, dict[bool, float]] = {}
    number: Counter[str] = Counter()
    for row in rows:
        whole[row.label] += row.weight
        if not is_imported(row.example):
            of_person = given.setdefault(row.example.user_id, {True: 0.0, False: 0.0})
            of_person[row.label] += row.weight
            number[row.example.user_id] += 1

    def share(user_id: str, label: bool) -> float:
        return given[user_id][label] / whole[label] if whole[label] else 0.0

    people = sorted(given, key=lambda one: (-max(share(one, True), share(one, False)), one))
    return [
        {"user_id": one, "up": share(one, True), "down": share(one, False), "rows": number[one]}
        for one in people[:MOST_ACTIVE]
    ]
