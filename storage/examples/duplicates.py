"""Finds duplicate and contradictory votes: votes on the same text, with the same label or different ones.

A text is a prompt with a completion. Votes are counted by the text's 16-byte digest in a private temporary
SQLite file, so a million texts need no more memory than its cache.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import KW_ONLY, dataclass
from typing import Literal, NamedTuple

from storage.chats.tools import DECLARED
from storage.examples.example import Example
from storage.examples.messages import Message

Duplicates = Literal["keep", "drop"]
Contradictions = Literal["keep", "drop", "majority"]

CACHE_KIB = 16 * 1024


class TextVotes(NamedTuple):
    up: int
    down: int


class TextCounts:
    """How often each text was voted up and down; close it when done."""

    def __init__(self) -> None:
        self._file = scratch_file()
        self._file.execute(
            "CREATE TABLE text (digest BLOB PRIMARY KEY, up INTEGER, down INTEGER) WITHOUT ROWID"
        )

    def add(self, example: Example) -> TextVotes:
        """Count a vote; returns the votes on its text so far, this one included."""
        votes = self._file.execute(
            "INSERT INTO text VALUES (?, ?, ?) ON CONFLICT (digest) DO UPDATE "
            "SET up = up + excluded.up, down = down + excluded.down RETURNING up, down",
            (digest(example.prompt, example.completion), example.label, not example.label),
        ).fetchone()
        return TextVotes(*votes)

    def of(self, example: Example) -> TextVotes:
        row = self._file.execute(
            "SELECT up, down FROM text WHERE digest = ?", (digest(example.prompt, example.completion),)
        ).fetchone()
        return TextVotes(*row) if row is not None else TextVotes(0, 0)

    def contradictory(self) -> tuple[int, int]:
        """How many texts have votes of both labels, and how many votes those texts have."""
        texts, votes = self._file.execute(
            "SELECT count(*), coalesce(sum(up + down), 0) FROM text WHERE up > 0 AND down > 0"
        ).fetchone()
        return texts, votes

    def close(self) -> None:
        self._file.close()


@dataclass
class Selection:
    """The examples that remain after handling duplicates and contradictions.

    duplicates: "drop" keeps the first example with each text and label.
    contradictions: "drop" leaves out every vote on a text that has votes of both labels; "majority" keeps the
    votes of the more frequent label, or none if both are equal. These two read `examples` twice.
    """

    examples: Callable[[], Iterator[Example]]
    _: KW_ONLY
    duplicates: Duplicates = "keep"
    contradictions: Contradictions = "keep"
    duplicate_votes: int = 0  # votes whose text and label had occurred before, dropped or not
    contradictory_texts: int = 0
    contradictory_votes: int = 0
    contradictions_dropped: int = 0

    def __iter__(self) -> Iterator[Example]:
        self.duplicate_votes = self.contradictions_dropped = 0
        with closing(TextCounts()) as seen, closing(TextCounts()) as every:
            settles = self.contradictions != "keep"
            for example in self.examples() if settles else ():
                every.add(example)
            for example in self.examples():
                if settles and not self._stands(example, every.of(example)):
                    self.contradictions_dropped += 1
                    continue
                votes = seen.add(example)
                repeated = (votes.up if example.label else votes.down) > 1
                self.duplicate_votes += repeated
                if not repeated or self.duplicates == "keep":
                    yield example
            counts = every if settles else seen
            self.contradictory_texts, self.contradictory_votes = counts.contradictory()

    def _stands(self, example: Example, votes: TextVotes) -> bool:
        if not (votes.up and votes.down):
            return True
        if self.contradictions == "drop" or votes.up == votes.down:
            return False
        return example.label == (votes.up > votes.down)


def opening(prompt: list[Message]) -> str:
    """A stand-in chat id for a row without a chat: a digest of its system prompt and first message.

    Rows with the same opening then count as one chat: its rated turns, sibling replies, both sides of a pair.
    """
    before = sum(message["role"] in ("system", DECLARED) for message in prompt[:2])
    return digest(prompt[: 1 + before]).hex()


def digest(*parts: list[Message]) -> bytes:
    """A 16-byte digest of these lists of messages, their roles, contents and reasoning."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        # Each length comes before its text, so that different lists never give the same bytes.
        found.update(b"%d;" % len(part))
        for message in part:
            for text in (message["role"].encode(), message["content"].encode()):
                found.update(b"%d:" % len(text))
                found.update(text)
            if reasoning := message.get("reasoning_content", "").encode():
                found.update(b"+%d:" % len(reasoning) + reasoning)
    return found.digest()


def scratch_file() -> sqlite3.Connection:
    """A private temporary database, on disk beyond its cache, deleted when the connection closes."""
    # Threads take turns using it when a web server streams an export.
    file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KIB}"):
        file.execute(f"PRAGMA {pragma}")
    file.execute("BEGIN")
    return file
