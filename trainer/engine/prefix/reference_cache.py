"""Reference log-probabilities on disk, kept across runs: the base model gives the same ones for ever.

A small SQLite file that may be deleted at any time. Several runs may use it at once. Knows token ids
and numbers; no text is in it.
"""

import hashlib
import logging
import sqlite3
from array import array
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import torch

from trainer.engine.prefix.scorer import Reply, Scores

log = logging.getLogger(__name__)

# Bytes that one entry takes in the file, index and pages included.
ENTRY_BYTES = 64


Known = tuple[float | None, float | None]


class ReferenceCache:
    """log π_ref of replies, by the model, its number format, the prompt's ids and the reply's ids.

    A mismatched pair is a prompt with another row's reply, so its key is of the same kind. When the file
    would outgrow `max_mb`, the entries written first go. Whatever is wrong with the file, it is only a
    cache: it is then left alone, and the numbers are computed.
    """

    def __init__(self, file: Path, *, model: str, max_mb: int) -> None:
        self._model = hashlib.sha256(model.encode()).digest()
        self._most = max_mb * 2**20 // ENTRY_BYTES
        self._file = file
        self._broken = False
        self._before = 0  # the newest entry that was there already
        self._counted: set[bytes] = set()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS reference"
                    " (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, logp REAL NOT NULL)"
                )
                (newest,) = connection.execute("SELECT max(number) FROM reference").fetchone()
                self._before = newest or 0
        except (sqlite3.Error, OSError) as error:
            self._broken = True
            log.warning("Reference log-probabilities are not kept: %s cannot be used (%s).", file, error)

    def look_up(self, replies: Sequence[Reply]) -> Scores | None:
        """The scores of all replies, or None if one is missing."""
        known = self._find(replies)
        return None if any(_asked(*one) for one in zip(replies, known, strict=True)) else _scores(known)

    def complete(
        self, replies: Sequence[Reply], score: Callable[[list[Reply]], Scores]
    ) -> tuple[Scores, int]:
        """The scores of all replies, and how many were known from before this cache was opened, each once.

        `score` is asked for what is missing.

        A reply that is known beside a mismatched one that is not is not scored again: only its prompt is
        read, and what the mismatched one adds.
        """
        known = self._find(replies)
        reused = self._count_earlier(replies)
        found = _scores(known)
        asked = {number: reply for number, one in enumerate(replies) if (reply := _asked(one, known[number]))}
        if asked:
            scores = score(list(asked.values()))
            self.keep(list(asked.values()), scores)
            for place, (number, reply) in enumerate(asked.items()):
                if reply.wanted:
                    found.completions[number] = scores.completions[place]
                if reply.mismatched:
                    found.mismatched[number] = scores.mismatched[place]
        return found, reused

    def _find(self, replies: Sequence[Reply]) -> list[Known]:
        """log π_ref of each reply and of its mismatched one; None where it is not known, or not asked for."""
        values = self._read("logp", [key for reply in replies for key in self._keys(reply)])
        found = [[values.get(key) for key in self._keys(reply)] for reply in replies]
        return [(own, others[0] if others else None) for own, *others in found]

    def _count_earlier(self, replies: Sequence[Reply]) -> int:
        keys = {self._keys(reply)[0] for reply in replies} - self._counted
        numbers = self._read("number", list(keys))
        earlier = {key for key, number in numbers.items() if number <= self._before}
        self._counted |= earlier
        return len(earlier)

    def _read(self, column: str, keys: Sequence[bytes]) -> dict[bytes, float]:
        if not self._broken:
            marks = ",".join("?" * len(keys))
            with suppress(sqlite3.Error), closing(self._open()) as connection:
                return dict(
                    connection.execute(f"SELECT key, {column} FROM reference WHERE key IN ({marks})", keys)
                )
        return {}

    def keep(self, replies: Sequence[Reply], scores: Scores) -> None:
        """Write down what was asked for, and drop the oldest entries beyond the limit."""
        if self._broken:
            return
        entries: list[tuple[bytes, float]] = []
        for reply, own, other in zip(
            replies, scores.completions.tolist(), scores.mismatched.tolist(), strict=True
        ):
            own_key, *other_key = self._keys(reply)
            entries += [(own_key, own)] if reply.wanted else []
            entries += [(key, other) for key in other_key]
        with suppress(sqlite3.Error), closing(self._open()) as connection, connection:
            connection.executemany("INSERT OR IGNORE INTO reference (key, logp) VALUES (?, ?)", entries)
            connection.execute(
                "DELETE FROM reference WHERE number <= (SELECT max(number) FROM reference) - ?",
                (self._most,),
            )

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=10)

    def _keys(self, reply: Reply) -> list[bytes]:
        """Of the reply, and of its mismatched one if it has one."""
        others = [reply.mismatched] if reply.mismatched else []
        return [self._key(reply.prompt, completion) for completion in (reply.completion, *others)]

    def _key(self, prompt: list[int], completion: list[int]) -> bytes:
        digest = hashlib.sha256(self._model)
        for ids in (prompt, completion):
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(array("q", ids).tobytes())
        return digest.digest()[:16]


def _asked(reply: Reply, known: Known) -> Reply | None:
    """What is to be scored still, if anything."""
    own, other = known
    mismatched = reply.mismatched if other is None else None
    return replace(reply, wanted=own is None, mismatched=mismatched) if own is None or mismatched else None


def _scores(known: Sequence[Known]) -> Scores:
    return Scores(*(torch.tensor([value or 0.0 for value in values]) for values in zip(*known, strict=True)))
