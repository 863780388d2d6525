"""What a reader of a file yields: one record after another, or why there is none.

Nothing here holds more than one record: a line longer than LONGEST_RECORD is skipped over, not read in.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

LONGEST_RECORD = 16 * 1024 * 1024  # bytes of a line, characters of a JSON value
PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the file as it came, or the fault that kept it from being read."""

    position: str  # where it is, for people: "line 3", "element 3", "row 3"
    done: int  # bytes of the file read so far
    value: dict[str, Any] | None = None
    fault: str | None = None


def record_of(position: str, done: int, value: Any) -> Record:
    """A record of a JSON value, which must be an object."""
    if isinstance(value, dict):
        return Record(position, done, value)
    return Record(position, done, fault=f"The row must be an object, not {kind_of(value)}.")


def kind_of(value: Any) -> str:
    """What JSON calls the type of a value, with an article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    kinds: dict[type[Any], str] = {
        str: "text",
        list: "a list",
        tuple: "a list",
        dict: "an object",
        bytes: "bytes",
    }
    return kinds.get(type(value), f"a {type(value).__name__}")


def too_long(what: str) -> str:
    return f"The {what} is longer than {LONGEST_RECORD} bytes; split it or leave it out."


def bounded_lines(file: IO[bytes]) -> Iterator[tuple[int, int, bytes | None]]:
    """(line number from 1, bytes read so far, the line with its end, or None where it is too long)."""
    number = done = 0
    while line := file.readline(LONGEST_RECORD + 1):
        number += 1
        done += len(line)
        if len(line) <= LONGEST_RECORD:
            yield number, done, line
            continue
        yield number, done, None  # at once: who refuses the file for it need not wait for its end
        while line and not line.endswith(b"\n"):
            line = file.readline(PIECE)
            done += len(line)


class StrictJson:
    """A JSON decoder that refuses a key that comes twice: it cannot know which of the two is meant.

    That is a flaw of a value that is read to its end all the same, so that reading can go on after it. NaN
    and Infinity, which JSON has not but pandas writes for a missing value, are null.
    """

    def __init__(self) -> None:
        self._flaw: str | None = None
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=lambda _: None)

    def scan(self, text: str, at: int = 0) -> tuple[Any, int, str | None]:
        """The value that begins at `at`, the place after it, and its flaw, if it has one.

        Raises json.JSONDecodeError, RecursionError, or ValueError for a number of thousands of digits.
        """
        self._flaw = None
        value, end = self._decoder.raw_decode(text, at)
        return value, end, self._flaw

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            self._flaw = f"The key {twice[:80]!r} comes twice in one object; keep one of them."
        return found
