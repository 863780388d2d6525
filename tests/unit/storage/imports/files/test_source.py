"""Reading what people send: every kind of file, told by its content, in bounded memory."""

import json
import os
import random
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from storage.errors import InvalidInput
from storage.imports.files.records import LONGEST_RECORD
from storage.imports.files.source import open_source
from tests.support.imported import ROWS, read, values

JSON_LAYOUTS = {
    "lines": "\n".join(json.dumps(row) for row in ROWS),
    "lines with CRLF and empty lines": "\r\n\r\n".join(json.dumps(row) for row in ROWS) + "\r\n\r\n",
    "lines with a byte order mark": "\ufeff" + "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
    "array": json.dumps(ROWS),
    "indented array": "\n\n " + json.dumps(ROWS, indent=4, ensure_ascii=False) + "\n",
    "array with a byte order mark": "\ufeff" + json.dumps(ROWS),
    "indented objects": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "objects that go on below their first line": "\n".join(
        json.dumps(row, indent=2).replace("{\n ", "{", 1) for row in ROWS
    ),
}


@pytest.mark.parametrize("name", ["rows", "rows.json", "rows.jsonl"])
@pytest.mark.parametrize("text", JSON_LAYOUTS.values(), ids=JSON_LAYOUTS)
def test_json_in_any_layout_whatever_the_name(text: str, name: str) -> None:
    assert values(read(text.encode(), name)) == ROWS


def test_an_array_of_many_pieces_is_cut_at_its_elements() -> None:
    chance = random.Random(0)
    rows = [
        {"text": 'é"\\\n☀𝄞' * chance.randrange(3000), "n": n, "f": -1.5e-3, "x": None} for n in range(400)
    ]
    text = json.dumps(rows, ensure_ascii=False).encode()
    assert len(text) > 4 * 1024 * 1024
    assert values(read(text)) == rows
    assert values(read(json.dumps(rows).encode())) == rows


def test_every_place_where_an_array_may_be_cut_off_is_a_fault_of_its_element() -> None:
    text = json.dumps(ROWS, ensure_ascii=False).encode()
    for end in range(2, len(text)):
        *whole, last = read(text[:end])
        assert last.fault is not None
        assert [record.value for record in whole] == ROWS[: len(whole)]


def test_json_lines_whose_first_is_cut_short_are_json_lines() -> None:
    for cut in (b'{"prompt": "a",', b'{"prompt": "a', b'{"prompt":', b'{"prompt": "a"', b"{"):
        first, second = read(cut + b'\n{"a": 1}\n')
        assert (first.position, second.value) == ("line 1", {"a": 1})


FAULTY_LINES = {
    b'{"a": 1': "not JSON",
    b"{not json}": "not JSON: Expecting property name",
    b'{"a": 1} {"b": 2}': "more text after the value",
    b'{"a": "\xff"}': "not UTF-8",
    b"[" * 100_000: "nested too deeply",
    b'{"a":' * 100_000: "nested too deeply",
    b'{"label": true, "label": false}': "The key 'label' comes twice",
    b'{"a": {"b": [{"c": 1, "c": 1}]}}': "The key 'c' comes twice",
    b"[1, 2]": "must be an object, not a list",
    b'"text"': "must be an object, not text",
    b"12": "must be an object, not a number",
    b"null": "must be an object, not null",
    b'{"a": ' + b"9" * 5000 + b"}": "limit",
}


@pytest.mark.parametrize(("line", "fault"), FAULTY_LINES.items(), ids=FAULTY_LINES.values())
def test_a_bad_line_is_a_fault_of_that_line_alone(line: bytes, fault: str) -> None:
    before, bad, after = read(b'{"n": 1}\n' + line + b'\n{"n": 3}\n', "rows.jsonl")
    assert (before.value, after.value) == ({"n": 1}, {"n": 3})
    assert bad.position == "line 2"
    assert fault in (bad.fault or "")


FAULTY_ELEMENTS = {
    b'{"a": 1, "a": 2}': ("comes twice", True),
    b"[1]": ("must be an object, not a list", True),
    b'{"b": [{"c": 1, "c": 2}]}': ("The key 'c' comes twice", True),
    b'{"a" 1}': ("object key and value must be separated by a colon", False),
    b'{"a": "\xff"}': ("invalid bytes in UTF8 string near", False),
    b'{"a":' * 100_000: ("unallowed token", False),
    b'{"a": NaN}': ("invalid char in json text", False),
    b'{"a": 100000000000000000000}': ("integer overflow", False),
}


@pytest.mark.parametrize(("element", "expected"), FAULTY_ELEMENTS.items(), ids=lambda value: str(value)[:30])
def test_a_bad_element_ends_an_array_only_if_its_end_is_not_known(
    element: bytes, expected: tuple[str, bool]
) -> None:
    fault, goes_on = expected
    records = read(b'[{"n": 1}, ' + element + b', {"n": 3}]')
    faults = [record.fault for record in records if record.fault]
    assert len(faults) == 1
    assert fault in faults[0]
    assert records[-1].value == ({"n": 3} if goes_on else None)


def test_text_after_an_array_is_a_fault_and_not_lost_in_silence() -> None:
    assert "trailing garbage" in (read(b'[{"n": 1}]\n[{"n": 2}]')[-1].fault or "")


def test_nan_and_infinity_in_lines_as_pandas_writes_them_are_null() -> None:
    assert values(read(b'{"a": NaN, "b": [Infinity, -Infinity]}')) == [{"a": None, "b": [None, None]}]


REFUSED = {
    b"\x89PNG\r\n\x1a\n\0\0": "not a kind of file",
    b"hello": "not a kind of file",
}


@pytest.mark.parametrize(("start", "reason"), REFUSED.items(), ids=["image", "text"])
def test_unknown_kinds_are_refused(start: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        read(start)


def test_missing_and_empty_files() -> None:
    with pytest.raises(InvalidInput, match=r"no\.jsonl cannot be read: No such file"):
        read(Path("no.jsonl"))
    assert read(b"") == read(b" \n\n") == read(b"[]") == read(b"prompt,completion,label\n", "a.csv") == []


def test_a_pipe_is_read_as_often_as_a_file() -> None:
    outlet, inlet = os.pipe()
    os.write(inlet, b'{"n": 1}\n')
    os.close(inlet)
    with os.fdopen(outlet, "rb") as pipe, open_source(pipe, "standard input") as opened:
        assert [record.value for record in opened.records()] == [{"n": 1}]
        assert [record.value for record in opened.records()] == [{"n": 1}]


def test_the_line_after_one_that_is_too_long_is_read() -> None:
    first, second = read(b'{"a": "' + b"x" * LONGEST_RECORD + b'\n{"n": 2}\n', "rows.jsonl")
    assert "longer than" in (first.fault or "")
    assert second.value == {"n": 2}


def test_files_of_spreadsheet_programs_and_pointers_are_told_apart() -> None:
    workbook = BytesIO()
    with zipfile.ZipFile(workbook, "w") as zipped:
        zipped.writestr("[Content_Types].xml", "<Types/>")
    for content, name, remedy in (
        (workbook.getvalue(), "votes.xlsx", "save its sheet as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "votes.xls", "save its sheet as CSV"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "votes.csv", "`git lfs pull`"),
    ):
        with pytest.raises(InvalidInput, match=remedy), open_source(BytesIO(content), name):
            pass
