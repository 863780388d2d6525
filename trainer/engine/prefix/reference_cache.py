"""Caches reference log-probabilities on disk across runs; the base model always gives the same ones.

A small SQLite file that several runs may use at once and that may be deleted at any time. It has hashes of
token ids and numbers, no text.
"""

import hashlib
import logging
import sqlite3
from array import array
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import torch

from trainer.dataset.batch import Batch, Ids, Item
from trainer.engine.prefix.scorer import Scores

log = logging.getLogger(__name__)

# Bytes per entry in the file, including index and pages.
ENTRY_BYTES = 64


class ReferenceCache:
    """log π_ref of replies, keyed by the model, its number format, the prompt's ids and the reply's ids.

    A mismatched pair is a prompt with another row's reply, so its key has the same form. If the file would
    exceed `max_mb`, the oldest entries are deleted. A file that cannot be used is ignored, and the numbers
    are computed.
    """

    def __init__(self, file: Path, *, model: str, max_mb: float) -> None:
        self._model = hashlib.sha256(model.encode()).digest()
        self._most = int(max_mb * 2**20) // ENTRY_BYTES
        self._file = file
        self._broken = False
        self._before = 0  # the newest entry when this cache was opened
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

    def look_up(self, batch: Batch) -> Scores | None:
        """The scores of the complete batch, or None if one is missing."""
        found, missing, _ = self._find(batch)
        return None if missing else found

    def complete(self, batch: Batch, score: Callable[[Batch], Scores]) -> tuple[Scores, int]:
        """The scores, and how many replies were cached before this cache was opened, each counted once.

        Calls `score` for what is missing. If only a row's mismatched reply is missing, its own reply is not
        scored again: only the prompt and the mismatched reply run.
        """
        found, missing, reused = self._find(batch)
        reused -= self._counted
        self._counted |= reused
        if missing:
            numbers, part = list(missing), list(missing.values())
            scores = score(part)
            self.keep(part, scores)
            found.completions[numbers] += scores.completions.float().cpu()  # one of the two terms is 0
            found.mismatched[numbers] += scores.mismatched.float().cpu()
        return found, len(reused)

    def keep(self, batch: Batch, scores: Scores) -> None:
        """Store the scores, and delete the oldest entries beyond the limit."""
        if self._broken:
            return
        values = zip(scores.completions.tolist(), scores.mismatched.tolist(), strict=True)
        entries = [
            (key, value)
            for item, of_item in zip(batch, values, strict=True)
            for key, value in zip(self._keys(item), of_item, strict=True)
            if key
        ]
        with suppress(sqlite3.Error), closing(self._open()) as connection, connection:
            connection.executemany("INSERT OR IGNORE INTO reference (key, logp) VALUES (?, ?)", entries)
            connection.execute(
                "DELETE FROM reference WHERE number <= (SELECT max(number) FROM reference) - ?",
                (self._most,),
            )

    def _find(self, batch: Batch) -> tuple[Scores, dict[int, Item], set[bytes]]:
        """Known log π_ref, the rows reduced to what is unknown, and the keys of replies cached before."""
        keys = [self._keys(item) for item in batch]
        known = self._read([key for pair in keys for key in pair if key])
        values = torch.tensor([[known[key][1] if key in known else 0.0 for key in pair] for pair in keys])
        missing = {}
        for number, (item, (own, other)) in enumerate(zip(batch, keys, strict=True)):
            completion = None if own in known else item.completion
            mismatched = None if other in known else item.mismatched
            if completion is not None or mismatched is not None:
                missing[number] = Item(item.prompt, completion, mismatched)
        before = {own for own, _ in keys if own in known and known[own][0] <= self._before}
        return Scores(*values.unbind(1)), missing, before

    def _read(self, keys: list[bytes]) -> dict[bytes, tuple[int, float]]:
        """The entries with these keys: each one's number and log-probability."""
        if not self._broken:
            marks = ",".join("?" * len(keys))
            with suppress(sqlite3.Error), closing(self._open()) as connection:
                rows = connection.execute(
                    f"SELECT key, number, logp FROM reference WHERE key IN ({marks})", keys
                )
                return {key: (number, logp) for key, number, logp in rows}
        return {}

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=10)

    def _keys(self, item: Item) -> tuple[bytes, bytes]:
        """Keys of the reply and of the mismatched reply; b"" where there is none."""
        return self._key(item.prompt, item.completion), self._key(item.prompt, item.mismatched)

    def _key(self, prompt: Ids, reply: Ids | None) -> bytes:
        if reply is None:
            return b""
        digest = hashlib.sha256(self._model)
        for ids in (prompt, reply):
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(array("q", ids).tobytes())
        return digest.digest()[:16]
