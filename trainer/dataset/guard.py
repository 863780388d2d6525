"""The guard against poisoned votes: sets aside what a few people could turn a model with. Pure.

Each rule is a limit of storage/settings/guard.py. Imported rows are never set aside, because they name
nobody, and neither is what an admin has released.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from storage.examples.example import Example
from storage.settings.guard import GuardLimits
from trainer.dataset.phrases import Corpus, words
from trainer.dataset.pushed import pushed_phrases
from trainer.dataset.selection import is_imported, is_vote

MINUTE = timedelta(minutes=1)
# With N people a person may give twice the mean share, so that a few people are not held to a share which
# only many can keep.
TIMES_THE_MEAN = 2


@dataclass(frozen=True)
class Released:
    """The people, and the votes by (message id, user id), that an admin has released from the guard."""

    people: Collection[str] = frozenset()
    votes: Collection[tuple[str, str]] = frozenset()


NOTHING = Released()


@dataclass(frozen=True)
class SetAside:
    """An example that a run does not learn from, and why. `detail` quotes the phrase, if there is one."""

    example: Example
    reason: str
    detail: str = ""


@dataclass
class Guarded:
    """The examples that remain, in their order, and those set aside."""

    kept: list[Example] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)


def guard(examples: Sequence[Example], limits: GuardLimits, released: Released = NOTHING) -> Guarded:
    """Apply the limits. The result does not depend on the order of the examples."""
    if not limits.sets_aside:
        return Guarded(list(examples))
    # The store's order: the newest are last.
    order = sorted(range(len(examples)), key=lambda number: _place(examples[number]))
    rows = [examples[number] for number in order]
    exempt = [is_imported(row) or is_released(row, released) for row in rows]
    reasons: dict[int, tuple[str, str]] = {}

    def left() -> list[int]:
        return [row for row in range(len(rows)) if row not in reasons and not exempt[row]]

    # Phrases and bursts first, on all rows: what other rules set aside is evidence, too.
    corpus = None
    if limits.phrase_prompts or limits.max_near_duplicates:
        corpus = Corpus([row.completion[0]["content"] for row in rows])
    if corpus is not None and limits.phrase_prompts:
        for row, phrase in _pushed(corpus, rows, released, limits.phrase_prompts).items():
            if not exempt[row]:
                reasons[row] = "a phrase that few people push", phrase
    if most := limits.max_votes_per_minute:
        reason = f"more than {most} votes of one person within a minute"
        for row in _bursts(rows, exempt, most):
            reasons.setdefault(row, (reason, ""))
    if corpus is not None and (most := limits.max_near_duplicates):
        reason = f"nearly the same reply more than {most} times"
        standing = set(left())
        for group in corpus.near_duplicates([row.label for row in rows]):
            for row in [row for row in group if row in standing][:-most]:
                reasons[row] = reason, ""
    if most := limits.max_votes_per_day:
        reason = f"more than {most} of a kind from one person on a day"
        for row in _over(left(), most, lambda row: _person_kind_day(rows[row])):
            reasons[row] = reason, ""
    for kind in (True, False):
        ours = [row for row in left() if rows[row].label == kind]
        others = [row for row in range(len(rows)) if exempt[row] and rows[row].label == kind]
        free = [rows[row].user_id for row in others if not is_imported(rows[row])]
        share, most = share_cap([rows[row].user_id for row in ours], free, limits.max_share_per_person)
        for row in _over(ours, most, lambda row: rows[row].user_id) if most else ():
            reasons[row] = f"more than {share:.0%} of a kind from one person", ""

    found = Guarded()
    for row, number in sorted(enumerate(order), key=lambda both: both[1]):
        if row in reasons:
            found.set_aside.append(SetAside(examples[number], *reasons[row]))
        else:
            found.kept.append(examples[number])
    return found


def share_cap(people: Sequence[str], free: Sequence[str], largest: float) -> tuple[float, int]:
    """The share that applies to one person, and the most rows that keep everybody within it; 0 limits nobody.

    `people` names the giver of each row, `free` that of rows without a limit. The share is of the rows that
    remain, and at least twice the mean.
    """
    counts: dict[str, int] = defaultdict(int)
    for person in people:
        counts[person] += 1
    givers = len(counts.keys() | set(free))
    share = max(largest, TIMES_THE_MEAN / givers) if givers else 1.0
    if share >= 1 or not counts:
        return share, 0

    def fits(most: int) -> bool:
        return most <= share * (sum(min(count, most) for count in counts.values()) + len(free)) + 1e-9

    # What fits is an interval: the sum grows ever more slowly than `most`.
    low, high = 1, max(counts.values())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return share, low


def is_released(example: Example, released: Released) -> bool:
    return example.user_id in released.people or (example.message_id, example.user_id) in released.votes


def _place(example: Example) -> tuple[int, str, str, str]:
    return example.event_id, example.message_id, example.user_id, example.source


def _person_kind_day(example: Example) -> Hashable:
    return example.user_id, example.label, example.voted_at.date()


def _over(rows: Iterable[int], most: int, group_of: Callable[[int], Hashable]) -> list[int]:
    """The rows beyond the newest `most` of each group."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for row in rows:
        groups[group_of(row)].append(row)
    return [row for group in groups.values() for row in group[:-most]]


def _bursts(rows: Sequence[Example], exempt: Sequence[bool], most: int) -> list[int]:
    """The rows of votes, and of their corrections, that belong to more than `most` votes within a minute."""
    by_person: dict[str, list[Example]] = defaultdict(list)
    for row, excused in zip(rows, exempt, strict=True):
        if is_vote(row) and not excused:
            by_person[row.user_id].append(row)
    hasty: set[tuple[str, str]] = set()
    for person, votes in by_person.items():
        votes.sort(key=lambda vote: (vote.voted_at, vote.message_id))
        for start, (first, last) in enumerate(zip(votes, votes[most:], strict=False)):
            if last.voted_at - first.voted_at < MINUTE:
                hasty.update((vote.message_id, person) for vote in votes[start : start + most + 1])
    return [
        row
        for row, example in enumerate(rows)
        if (example.message_id, example.user_id) in hasty and not exempt[row]
    ]


def _pushed(corpus: Corpus, rows: Sequence[Example], released: Released, least: int) -> dict[int, str]:
    people: dict[str, int] = {}
    prompts: dict[str, int] = {}
    asked = [" ".join(words(row.prompt[-1]["content"])) if row.prompt else "" for row in rows]
    return pushed_phrases(
        corpus,
        [people.setdefault(row.user_id, len(people)) for row in rows],
        [prompts.setdefault(text, len(prompts)) for text in asked],
        [row.label for row in rows],
        [is_imported(row) or row.user_id in released.people for row in rows],
        least=least,
    )
