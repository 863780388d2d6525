"""Reference log-probabilities on disk, kept across runs: the base model gives the same ones for ever.

A small SQLite file that may be deleted at any time. Several runs may use it at once. Knows token ids
and numbers; no text is in it.
"""

import hashlib
import sqlite3
from array import array
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from trainer.shared_prefix import Reply, Scores

# Bytes that one entry takes in the file, index and pages included.
ENTRY_BYTES = 64


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
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS reference"
                    " (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, logp REAL NOT NULL)"
                )
        except (sqlite3.Error, OSError):
            self._broken = True

    def look_up(self, replies: Sequence[Reply]) -> Scores | None:
        """The scores of all replies, or None if one is missing."""
        if self._broken:
            return None
        keys = self._keys(replies)
        try:
            with closing(self._open()) as connection:
                marks = ",".join("?" * len(keys))
                found = dict(
                    connection.execute(f"SELECT key, logp FROM reference WHERE key IN ({marks})", keys)
                )
        except sqlite3.Error:
            return None
        if any(key not in found for key in keys):
            return None
        values = iter(found[key] for key in keys)
        pairs = [(next(values), next(values) if reply.mismatched else 0.0) for reply in replies]
        return Scores(torch.tensor([own for own, _ in pairs]), torch.tensor([other for _, other in pairs]))

    def keep(self, replies: Sequence[Reply], scores: Scores) -> None:
        """Write the scores down, and drop the oldest entries beyond the limit."""
        if self._broken:
            return
        values: list[float] = []
        for reply, own, other in zip(
            replies, scores.completions.tolist(), scores.mismatched.tolist(), strict=True
        ):
            values += [own, other] if reply.mismatched else [own]
        try:
            with closing(self._open()) as connection, connection:
                connection.executemany(
                    "INSERT OR IGNORE INTO reference (key, logp) VALUES (?, ?)",
                    zip(self._keys(replies), values, strict=True),
                )
                connection.execute(
                    "DELETE FROM reference WHERE number <= (SELECT max(number) FROM reference) - ?",
                    (self._most,),
                )
        except sqlite3.Error:
            return

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=10)

    def _keys(self, replies: Sequence[Reply]) -> list[bytes]:
        keys = []
        for reply in replies:
            keys.append(self._key(reply.prompt, reply.completion))
            if reply.mismatched:
                keys.append(self._key(reply.prompt, reply.mismatched))
        return keys

    def _key(self, prompt: list[int], completion: list[int]) -> bytes:
        digest = hashlib.sha256(self._model)
        for ids in (prompt, completion):
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(array("q", ids).tobytes())
        return digest.digest()[:16]
