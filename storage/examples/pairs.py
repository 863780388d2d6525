"""Preference pairs from votes: a reply voted up and a reply voted down to the same prompt.

The same prompt is the same text, so regenerated replies pair, and so do the two halves of a pair that
was imported. Every reply with a counterpart is in at least one pair, and a prompt with u replies up
and d down gives at most max(u, d) of them, not u × d. Digests and event ids are kept in a temporary
file; the texts are read again, a few pairs at a time.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from storage.examples.duplicates import digest, scratch_file
from storage.examples.example import CORRECTION, PAGE, Example

Item = TypeVar("Item")
Key = tuple[int, bool]  # of an example: its event id, and whether it is the vote's correction


def iter_pairs(
    examples: Iterable[Example], at: Callable[[Sequence[int]], Iterator[Example]]
) -> Iterator[tuple[Example, Example]]:
    """(up, down) in the order of each prompt's first vote; `at` reads examples by event id.

    Of several votes on the same text, the first counts. A text with votes of both kinds is in no pair:
    nobody can say which side it belongs to (`duplicates.Selection` may have settled that before).
    """
    file = scratch_file()
    try:
        _note(file, examples)
        pairs = _pairs(file)
        while page := list(islice(pairs, PAGE // 2)):
            wanted = sorted({event_id for pair in page for event_id, _ in pair})
            found = {(e.event_id, e.source == CORRECTION): e for e in at(wanted)}
            for up, down in page:
                if up in found and down in found:  # a chat may have been deleted meanwhile
                    yield found[up], found[down]
    finally:
        file.close()


def pair_up(ups: Sequence[Item], downs: Sequence[Item]) -> Iterator[tuple[Item, Item]]:
    """Each of both kinds at least once, and as few pairs as that takes; none where one kind is missing."""
    for number in range(max(len(ups), len(downs)) if ups and downs else 0):
        yield ups[number % len(ups)], downs[number % len(downs)]


def _note(file: sqlite3.Connection, examples: Iterable[Example]) -> None:
    file.execute(
        "CREATE TABLE reply (prompt BLOB, label INTEGER, completion BLOB, event_id INTEGER, "
        "correction INTEGER, PRIMARY KEY (prompt, label, completion)) WITHOUT ROWID"
    )
    file.executemany(
        "INSERT OR IGNORE INTO reply VALUES (?, ?, ?, ?, ?)",
        (
            (digest(e.prompt), e.label, digest(e.completion), e.event_id, e.source == CORRECTION)
            for e in examples
        ),
    )


def _pairs(file: sqlite3.Connection) -> Iterator[tuple[Key, Key]]:
    prompts = file.execute(
        "SELECT prompt FROM reply GROUP BY prompt HAVING min(label) < max(label) ORDER BY min(event_id)"
    )
    for (prompt,) in prompts:
        yield from pair_up(_replies(file, prompt, True), _replies(file, prompt, False))


def _replies(file: sqlite3.Connection, prompt: bytes, label: bool) -> list[Key]:
    """The texts that have votes of this kind only."""
    rows = file.execute(
        "SELECT event_id, correction FROM reply WHERE prompt = :prompt AND label = :label "
        "AND completion NOT IN (SELECT completion FROM reply WHERE prompt = :prompt AND label = 1 - :label) "
        "ORDER BY event_id, correction",
        {"prompt": prompt, "label": label},
    )
    return [(event_id, bool(correction)) for event_id, correction in rows]
