"""Reads JSON as records: JSON lines, one array of objects, or objects one after another.

A bad line affects only itself. After a broken element of an array reading stops, because its end is unknown.
"""

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any

import ijson

from storage.imports.files.records import (
    LONGEST_RECORD,
    MOST_VALUES,
    Record,
    TooLong,
    bounded_lines,
    has_too_many,
    kind_of,
    too_long,
    too_many,
)

REST = "what comes after it cannot be read."


def read_json_lines(file: IO[bytes]) -> Iterator[Record]:
    """One record per line; empty lines are skipped. NaN and Infinity, which pandas writes, become null."""
    for number, done, line in bounded_lines(file):
        position = f"line {number}"
        if line is None:
            yield Record(position, done, fault=too_long("line"))
        elif has_too_many(line):
            yield Record(position, done, fault=too_many("line"))
        elif line.strip():
            yield _line_record(position, done, line)


def read_json_values(file: IO[bytes], *, array: bool) -> Iterator[Record]:
    """One record per element of the array, or per object of a sequence, in any layout."""
    if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0)
    bounded = _Bounded(file)
    elements = _elements(bounded, array)
    number = 0
    try:
        for number, (value, fault) in enumerate(elements, 1):
            yield _record(f"element {number}", bounded.done, value, fault)
            bounded.element_from = bounded.done
    except TooLong:
        yield Record(f"element {number + 1}", bounded.done, fault=f"{too_long('element')} Otherwise {REST}")
    except ijson.JSONError as error:
        fault = f"This is not JSON: {_reason(error)}; {REST}"
        yield Record(f"element {number + 1}", bounded.done, fault=fault)


def _elements(file: "_Bounded", array: bool) -> Iterator[tuple[Any, str | None]]:
    """Each element, and why it is refused: a repeated key, or too many values.

    As ijson.items, but without the path that it keeps per level, whose memory is quadratic in the depth.
    """
    depth, top, values = 0, 1 if array else 0, 0
    builder, repeated = _builder()
    for event, value in ijson.basic_parse(file, multiple_values=not array, use_float=True):
        ends = event in ("end_map", "end_array")
        depth -= ends
        if array and depth == 0:  # the array itself begins or ends
            depth += not ends
            continue
        values += not ends and event != "map_key"
        if values <= MOST_VALUES:
            builder.event(event, value)
        elif values == MOST_VALUES + 1:
            builder, repeated = _builder()
        depth += event in ("start_map", "start_array")
        if depth == top and event != "map_key":
            if values > MOST_VALUES:
                yield None, too_many("element")
            else:
                yield builder.value, _twice(repeated[0]) if repeated else None
            builder, repeated = _builder()
            values = 0


def _builder() -> tuple[ijson.ObjectBuilder, list[str]]:
    repeated: list[str] = []
    return ijson.ObjectBuilder(lambda: _Object(repeated)), repeated


def _line_record(position: str, done: int, line: bytes) -> Record:
    try:
        # utf-8-sig: some editors save UTF-8 with a byte order mark.
        text = line.decode("utf-8-sig").strip()
        value, end = LINE_DECODER.raw_decode(text)
        if end == len(text):
            return _record(position, done, value)
        fault = f"This is not JSON: there is more text after the value, at column {end + 1}."
    except Repeated as error:
        fault = str(error)
    except UnicodeDecodeError as error:
        fault = f"This is not UTF-8 (byte {error.start})."
    except json.JSONDecodeError as error:
        fault = f"This is not JSON: {error.msg} at column {error.pos + 1}."
    except RecursionError:
        fault = "The JSON is nested too deeply."
    except ValueError as error:  # a number of thousands of digits
        fault = f"This is not JSON that can be read: {error}."
    return Record(position, done, fault=fault)


def _record(position: str, done: int, value: Any, fault: str | None = None) -> Record:
    if fault is None and not isinstance(value, dict):
        fault = f"The row must be an object, not {kind_of(value)}."
    return Record(position, done, fault=fault) if fault is not None else Record(position, done, value)


def _reason(error: ijson.JSONError) -> str:
    """The parser's reason and the text near it, without the lines that draw an arrow."""
    message = error.args[0]
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    reason, _, context = text.partition("\n")
    near = context.partition("\n")[0].strip()
    return reason.rstrip(".") + (f" near {near[:80]!r}" if near else "")


class _Bounded:
    """A file for ijson with a limit: ijson would read an element of any length."""

    def __init__(self, file: IO[bytes]) -> None:
        self.done = self.element_from = file.tell()  # bytes
        self._file = file

    def read(self, size: int) -> bytes:
        if self.done - self.element_from > LONGEST_RECORD:
            raise TooLong
        data = self._file.read(size)
        self.done += len(data)
        return data


class Repeated(ValueError):
    """A key occurs twice in one object, so its value is ambiguous."""


def _twice(key: str) -> str:
    return f"The key {key[:80]!r} comes twice in one object; keep one of them."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise Repeated(_twice(next(key for key in keys if keys.count(key) > 1)))
    return found


class _Object(dict[str, Any]):
    """An object that ijson fills. A duplicate key is only recorded, so that reading can continue."""

    __slots__ = ("_repeated",)

    def __init__(self, repeated: list[str]) -> None:
        self._repeated = repeated

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self:
            self._repeated.append(key)
        super().__setitem__(key, value)


LINE_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=lambda _: None)
