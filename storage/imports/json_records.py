"""JSON text as records: JSON lines, one array of objects, or objects one after another.

Reads in pieces and holds one record at a time. A bad line is a fault of that line alone; in an array the
place where a broken value ends is not known, so reading stops there.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from storage.imports.records import (
    LONGEST_RECORD,
    PIECE,
    Record,
    StrictJson,
    bounded_lines,
    record_of,
    too_long,
)

SPACE = re.compile(r"[ \t\n\r]*")
# A cut-off escape, literal or number is noticed this near to the end of the text at the latest.
CUT = 16
REST = "what comes after it cannot be read."


class BrokenJson(Exception):
    """Reading cannot go on: the text is not JSON from here."""


def read_json_lines(file: IO[bytes]) -> Iterator[Record]:
    """One record per line; empty lines are passed over."""
    decoder = StrictJson()
    for number, done, line in bounded_lines(file):
        position = f"line {number}"
        if line is None:
            yield Record(position, done, fault=too_long("line"))
        elif line.strip():
            yield _line_record(decoder, position, done, line)


def read_json_values(file: IO[bytes], *, array: bool) -> Iterator[Record]:
    """The elements of the one array, or objects that follow each other, however they are laid out."""
    text = _Pieces(file)
    number = 0
    try:
        if array:
            text.take("[")
        while (char := text.peek()) and not (array and char == "]"):
            number += 1
            value, flaw = text.value()
            position = f"element {number}"
            yield Record(position, text.done, fault=flaw) if flaw else record_of(position, text.done, value)
            if array and text.peek() != "]":
                text.take(",")
        if array:
            text.take("]")
            if text.peek():
                raise BrokenJson("There is more text after the end of the array; put one array into a file.")
    except BrokenJson as error:
        yield Record(f"element {max(number, 1)}", text.done, fault=str(error))
    except UnicodeDecodeError as error:
        yield Record(f"element {number + 1}", text.done, fault=f"This is not UTF-8 ({error.reason}); {REST}")


def _line_record(decoder: StrictJson, position: str, done: int, line: bytes) -> Record:
    fault: str | None
    try:
        # A byte order mark at the start of a file is how some editors save UTF-8.
        text = line.decode("utf-8-sig").strip()
        value, end, fault = decoder.scan(text)
        if end != len(text):
            fault = f"This is not JSON: there is more text after the value, at column {end + 1}."
        elif fault is None:
            return record_of(position, done, value)
    except UnicodeDecodeError as error:
        fault = f"This is not UTF-8 (byte {error.start})."
    except json.JSONDecodeError as error:
        fault = f"This is not JSON: {error.msg} at column {error.pos + 1}."
    except RecursionError:
        fault = "The JSON is nested too deeply."
    except ValueError as error:
        fault = f"This is not JSON that can be read: {error}."
    return Record(position, done, fault=fault)


class _Pieces:
    """UTF-8 text that is read in pieces; holds what is not consumed yet, which is one value at most."""

    def __init__(self, file: IO[bytes]) -> None:
        self.done = 0  # bytes
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._json = StrictJson()
        self._text = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """The next character that is not white space, "" at the end; moves there."""
        while True:
            self._at = SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, char: str) -> None:
        found = self.peek()
        if found != char:
            where = f"{found!r} stands there" if found else "the file ends there"
            raise BrokenJson(f"This is not JSON: {char!r} is expected after this, but {where}; {REST}")
        self._at += 1

    def value(self) -> tuple[Any, str | None]:
        """The value that begins at the next character, and its flaw, if it has one."""
        while True:
            try:
                value, end, flaw = self._json.scan(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - CUT
                if not cut or self._ended:
                    column = error.pos - self._at + 1
                    raise BrokenJson(
                        f"This is not JSON: {error.msg} at its character {column}; {REST}"
                    ) from error
            except RecursionError as error:
                raise BrokenJson(f"The JSON is nested too deeply; {REST}") from error
            except ValueError as error:
                raise BrokenJson(f"This is not JSON that can be read: {error}; {REST}") from error
            else:
                self._at = end
                return value, flaw
            if len(self._text) - self._at > LONGEST_RECORD:
                raise BrokenJson(f"{too_long('element')} Otherwise {REST}")
            self._more()

    def _more(self) -> bool:
        held = len(self._text) - self._at
        data = b"" if self._ended else self._file.read(max(PIECE, held))  # doubling keeps rescans linear
        self._ended = not data
        self.done += len(data)
        self._text = self._text[self._at :] + self._decode(data, final=self._ended)
        self._at = 0
        return not self._ended
