"""Records, which the file readers yield one at a time: a row of the file, or why it cannot be read.

Only one record is in memory, and one longer than LONGEST_RECORD is never loaded completely. One that would
take more than RECORD_MEMORY as Python objects is refused before they are made.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

MIB = 1024 * 1024
LONGEST_RECORD = 16 * MIB  # bytes of a line, of an element, of a text in a table
RECORD_MEMORY = 32 * MIB
MOST_VALUES = 200_000  # in a JSON record, and messages in the rows of any record: about RECORD_MEMORY
PIECE = MIB
JSON_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the file, unconverted, or the fault that prevented reading it."""

    position: str  # where it is, for people: "line 3", "element 3", "row 3"
    done: int  # bytes of the file read so far
    value: dict[str, Any] | None = None
    fault: str | None = None
    missing: Mapping[str, str] | None = None  # CSV: the columns without a value, and what stands there


class TooLong(Exception):
    """A record is longer than LONGEST_RECORD."""


def kind_of(value: Any) -> str:
    """JSON's name for the type of a value, with an article, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, dict):
        return "an object"
    kinds: dict[type[Any], str] = {str: "text", list: "a list", tuple: "a list", bytes: "bytes"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def too_long(what: str) -> str:
    return f"The {what} is longer than {LONGEST_RECORD} bytes; split it or leave it out."


def too_many(what: str) -> str:
    return f"The {what} holds more than {MOST_VALUES} values; split it or leave it out."


def has_too_many(json_text: bytes) -> bool:
    """Whether the JSON holds more than MOST_VALUES values, which would take far more memory than its text."""

    def most(text: bytes) -> int:  # each value follows a comma or begins a list or an object
        return 1 + text.count(b",") + text.count(b"[") + text.count(b"{")

    return most(json_text) > MOST_VALUES and most(JSON_TEXT.sub(b"", json_text)) > MOST_VALUES


def bounded_lines(file: IO[bytes]) -> Iterator[tuple[int, int, bytes | None]]:
    """Yields (line number from 1, bytes read so far, the line with its newline, or None if too long)."""
    number = done = 0
    while line := file.readline(LONGEST_RECORD + 1):
        number += 1
        done += len(line)
        if len(line) <= LONGEST_RECORD:
            yield number, done, line
            continue
        yield number, done, None  # before skipping the rest: if the file is refused, it need not be read on
        while line and not line.endswith(b"\n"):
            line = file.readline(PIECE)
            done += len(line)
