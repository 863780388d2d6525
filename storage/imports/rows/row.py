"""What an import reads from a record: a rated conversation, or what was left out and why."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from storage.chats.conversation import Turn


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """A rated conversation in the shape of storage.chats.conversation, the reply last."""

    turns: tuple[Turn, ...]
    label: bool
    tags: tuple[str, ...] = ()
    comment: str | None = None
    correction: str | None = None
    model: str | None = None  # as the source names it
    cut: bool = False  # the reply ended at a token limit
    judge: str | None = None  # the name of the judge model, if it rated the reply and no person did
    voted_at: datetime | None = None
    share: float | None = None  # of this reply in a vote on a whole chat; only in a Thumbloop export
    origin: tuple[str, str] | None = None  # message id and user hash of a Thumbloop export
    # The message and the person of the vote, where the source says so: of several votes, the latest counts.
    # The message is an id, or empty if only the text identifies it.
    ballot: tuple[str, str] | None = None
    score: float | None = None  # this person's, where the label follows from the mean of several people's

    @property
    def person(self) -> str:
        """Who voted, if the source says so."""
        return self.ballot[1] if self.ballot else self.origin[1] if self.origin else ""

    @property
    def reply_key(self) -> str:
        """A hash that all votes of people, or of one judge, on the same reply share."""
        return _digest([_said(self.turns), self.judge])

    @property
    def key(self) -> str:
        """A hash that two rows share if they are one vote: by the ballot, or else by text and label."""
        if self.ballot is None:
            return self.text_key
        message, person = self.ballot
        return _digest(["ballot", message or _digest(_said(self.turns)), person])

    @property
    def text_key(self) -> str:
        """A hash of conversation and label, and in a Thumbloop export of message id and user too."""
        *before, reply = _said(self.turns)
        said: list[Any] = [before, *reply[1:], self.label]
        if self.origin is not None:
            said.append(self.origin)
        return _digest(said)


def later(one: ImportedRow, other: ImportedRow) -> ImportedRow:
    """Of two votes of one person on one reply the one that counts: by time, or else the later in the file."""
    if one.voted_at is not None and other.voted_at is not None and one.voted_at > other.voted_at:
        return one
    return other


@dataclass(frozen=True, slots=True)
class Dropped:
    """Rows left out on purpose: by an option, or because they have no vote."""

    reason: str
    rows: int = 1


@dataclass(frozen=True, slots=True)
class LeftOutColumn:
    """A column of the record that was not imported."""

    name: str


# Reasons of Dropped.
REPEATED = "the same row again in this file"
REPLACED = "a vote that the same person changed later"


def _said(turns: tuple[Turn, ...]) -> list[tuple[str, ...]]:
    # Rows without reasoning keep the keys that they had before there was any.
    return [turn if turn.reasoning else turn[:2] for turn in turns]


def _digest(said: Any) -> str:
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
