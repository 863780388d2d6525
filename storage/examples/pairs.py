"""Preference pairs from votes: a reply voted up and a reply voted down to the same prompt.

Prompts are the same if their text is, so regenerated replies form pairs, and so do both halves of an imported
pair. Every reply with a counterpart is in at least one pair. A prompt with u replies up and d down gives at
most max(u, d) pairs, not u × d. A temporary file holds digests and event ids; the texts are read again, a few
pairs at a time.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import TypeVar

from storage.examples.duplicates import digest, scratch_file
from storage.examples.example import CORRECTION, PAGE, Example

Item = TypeVar("Item")
Key = tuple[int, bool]  # an example's event id, and whether it is the vote's correction


def iter_pairs(
    examples: Iterable[Example], at: Callable[[Sequence[int]], Iterator[Example]]
) -> Iterator[tuple[Example, Example]]:
    """(up, down) in the order of each prompt's first vote; `at` reads examples by event id.

    Of several votes on the same text, the first counts. A text with votes of both labels is in no pair, since
    its side is unclear (`duplicates.Selection` may have resolved that before).
    """
    with closing(scratch_file()) as file:
        _note(file, examples)
        pairs = _pairs(file)
        while page := list(islice(pairs, PAGE // 2)):
            wanted = sorted({event_id for pair in page for event_id, _ in pair})
            found = {(e.event_id, e.source == CORRECTION): e for e in at(wanted)}
            for up, down in page:
                if up in found and down in found:  # a chat may have been deleted meanwhile
                    yield found[up], found[down]


def pair_up(ups: Sequence[Item], downs: Sequence[Item]) -> Iterator[tuple[Item, Item]]:
    """The fewest pairs that use every item of both kinds at least once; none if one kind is empty."""
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
    """The keys of the prompt's replies that have only votes of this label, by event id."""
    rows = file.execute(
        "SELECT event_id, correction FROM reply WHERE prompt = :prompt AND label = :label "
        "AND completion NOT IN (SELECT completion FROM reply WHERE prompt = :prompt AND label = 1 - :label) "
        "ORDER BY event_id, correction",
        {"prompt": prompt, "label": label},
    )
    return [(event_id, bool(correction)) for event_id, correction in rows]
