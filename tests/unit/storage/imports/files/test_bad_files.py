"""Files that somebody got wrong: each is refused with the place and the reason, and nothing is imported."""

import bz2
import gc
import gzip
import io
import json
import lzma
import subprocess
import sys
import zipfile
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.db.database import Database
from storage.errors import InvalidInput
from storage.imports.files.source import open_source
from storage.imports.importer import import_file
from tests.support.imported import ROWS, counts, is_empty, read

GOOD = {"prompt": "Hi", "completion": "Hello", "label": True}
STRUCTS = pa.list_(pa.struct({"x": pa.int64()}))
# A Parquet column in the place of one of GOOD's, and what is said of it.
SURPRISES: dict[str, tuple[str, pa.Array, str]] = {
    "structs for a prompt": (
        "prompt",
        pa.array([[{"x": 1}]], STRUCTS),
        "prompt.0.role must be system, dev",
    ),
    "structs for content": (
        "completion",
        pa.array([[{"role": "assistant", "content": [{"x": 1}]}]]),
        "completion.0.content cannot be imported: it holds a part without a text",
    ),
    "a list of lists": ("completion", pa.array([[["Hello"]]]), "completion.0 must be a message, not a list"),
    "nulls in a list": ("prompt", pa.array([[None]], STRUCTS), "prompt.0 must be a message, not null"),
    "all nulls": ("completion", pa.nulls(1), "no known format has these columns|completion is missing"),
    "a number": ("completion", pa.array([7]), "completion must be text or a list of messages, not a number"),
    "a decimal": ("completion", pa.array([Decimal("1.50")]), "completion must be text.*not a Decimal"),
    "a date": ("prompt", pa.array([date(2026, 1, 1)]), "prompt must be text.*not a date"),
    "a map": (
        "prompt",
        pa.array([[("role", "user")]], pa.map_(pa.string(), pa.string())),
        "prompt.0 must be a message, not a list",
    ),
    "bytes": ("completion", pa.array([b"Hello"]), "completion must be text.*not bytes"),
    "a label of text": ("label", pa.array(["maybe"]).dictionary_encode(), "label must be true .up. or false"),
    "a label of numbers": (
        "label",
        pa.array([1], pa.int8()),
        "label must be true .up. or false .down., not 1",
    ),
    "a label of floats": ("label", pa.array([1.0]), "label must be true .up. or false .down., not 1.0"),
}


@pytest.mark.parametrize(("column", "values", "reason"), SURPRISES.values(), ids=SURPRISES)
def test_parquet_with_a_surprise_in_a_column(
    database: Database, tmp_path: Path, column: str, values: pa.Array, reason: str
) -> None:
    table = pa.table({name: values if name == column else pa.array([GOOD[name]]) for name in GOOD})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(InvalidInput, match=reason) as caught:
        import_file(database, tmp_path / "rows.parquet")
    assert "row 1" in caught.value.message
    assert is_empty(database)


def test_what_a_parquet_may_encode_as_it_likes_is_read(database: Database, tmp_path: Path) -> None:
    texts = pa.array([row["completion"] for row in ROWS]).dictionary_encode()
    table = pa.table(
        {
            "prompt": pa.array([row["prompt"] for row in ROWS], pa.large_string()),
            "completion": texts,
            "label": pa.array([row["label"] for row in ROWS]),
            "comment": pa.nulls(len(ROWS)),
            "score": pa.array([Decimal("1.5")] * len(ROWS)),
            "extra": pa.array([{"deep": [[1], []]}] * len(ROWS)),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet", compression="gzip")
    assert counts(import_file(database, tmp_path / "rows.parquet")) == (2, 0, 0, 0)


BROKEN: dict[str, tuple[bytes, str]] = {
    "no comma": (json.dumps(GOOD).encode() * 2, "line 1: This is not JSON: there is more text"),
    "a comma after the last element": (b'[{"prompt": "a"},]', "element 1: |element 2: This is not JSON"),
    "half a file": (json.dumps(GOOD).encode()[:-9], "line 1: This is not JSON"),
    "mixed formats": (
        b"\n".join(
            json.dumps(row).encode() for row in (GOOD, {"prompt": "a", "chosen": "b", "rejected": "c"})
        ),
        "line 2: .*It looks like the format pairs",
    ),
    "columns in capitals": (
        b'{"Prompt": "a", "Completion": "b", "Label": true}',
        "'Label'. In small letters they would be the format kto: rename the columns. Known formats: ",
    ),
    "another encoding": (
        json.dumps(GOOD, ensure_ascii=False).replace("Hi", "é").encode("latin-1"),
        "not UTF-8",
    ),
    "UTF-16 that is cut": (
        json.dumps(GOOD).encode("utf-16")[:-1],
        "rows.jsonl is UTF-16 with a fault: .*as UTF-8",
    ),
    "half a gzip": (gzip.compress(json.dumps(GOOD).encode())[:-9], "rows.jsonl is a damaged gzip file"),
    "half a zstd": (pa.compress(b"{}" * 999, "zstd", asbytes=True)[:-3], "rows.jsonl is a damaged zstd file"),
    "a bent bzip2": (b"BZh9" + bytes(99), "rows.jsonl is a damaged bz2 file"),
    "packed twice": (gzip.compress(gzip.compress(b"{}")), "is a gzip archive, which is not unpacked"),
    "columns of pandas": (b'{"prompt": {"0": "a"}, "label": {"0": true}}', "orient='records', lines=True"),
    "split of pandas": (b'{"columns": ["a"], "index": [0], "data": [["b"]]}', "orient='records', lines=True"),
    "index of pandas": (b'{"0": {"a": 1}, "1": {"a": 2}}', "orient='records', lines=True"),
    "rows in an object": (b'{"rows": [{"prompt": "a", "label": true}]}', "The rows seem to lie in 'rows'"),
}


@pytest.mark.parametrize(("data", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_files(database: Database, data: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        import_file(database, io.BytesIO(data), name="rows.jsonl")
    assert "rows.jsonl" in caught.value.message
    assert is_empty(database)


def zipped(data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", data)
    return packed.getvalue()


PACKERS: dict[str, Any] = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zip": zipped}
PACKERS["zstd"] = lambda data: pa.compress(data, "zstd", asbytes=True)
UNPACKED = ("gzip", "bzip2", "zstd")


@pytest.mark.parametrize("kind", PACKERS)
def test_bombs_are_not_unpacked_whatever_their_name_says(kind: str) -> None:
    bomb = PACKERS[kind](b"\0" * 20_000_000)
    assert len(bomb) < 100_000
    reason = (
        "unpacks to more than 16 MiB" if kind in UNPACKED else f"is a {kind} archive, which is not unpacked"
    )
    for name in ("rows.jsonl", "rows.csv", "rows.parquet", "rows.jsonl.gz", "request"):
        with pytest.raises(InvalidInput, match=f"{name} {reason}") as caught:
            read(bomb, name)
        assert caught.value.code == ("unpacks_too_large" if kind in UNPACKED else "archive")


@pytest.mark.parametrize("kind", UNPACKED)
def test_compressed_files_are_read(kind: str, tmp_path: Path) -> None:
    text = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    for data in (text, text.decode().encode("utf-16")):
        assert [record.value for record in read(PACKERS[kind](data), "rows.jsonl.gz")] == ROWS
    table = PACKERS[kind](b"prompt;label\na;true\n")
    assert [record.value for record in read(table, "rows.csv.zst")] == [{"prompt": "a", "label": True}]
    twice = PACKERS[kind](text) + PACKERS[kind](text)  # one member after another, as logs are appended
    assert [record.value for record in read(twice, "rows.jsonl.gz")] == ROWS * 2
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    packed = PACKERS[kind]((tmp_path / "rows.parquet").read_bytes())
    assert [record.value for record in read(packed, "rows.parquet.gz")] == ROWS


def test_an_upload_that_is_unpacked_stays_open() -> None:
    upload = io.BytesIO(gzip.compress(json.dumps(GOOD).encode()))
    with open_source(upload, "rows.jsonl.gz") as opened:
        assert [record.value for record in opened.records()] == [GOOD]
    gc.collect()
    assert not upload.closed


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_read(encoding: str) -> None:
    text = json.dumps(ROWS, ensure_ascii=False)
    text = text if encoding != "utf-16" else "\ufeff" + text
    encoded = text.encode("utf-16-le" if encoding == "utf-16" else encoding)
    assert [record.value for record in read(encoded, "rows.json")] == ROWS
    table = "prompt\tlabel\r\né\tTRUE\r\n".encode(encoding)  # "Unicode text" of a spreadsheet
    assert [record.value for record in read(table, "rows.txt")] == [{"prompt": "é", "label": True}]


# A line of 2 GB of text, in a process whose growth can be measured. The file is made as it is read.
HUGE_LINE = """
import io, re, sys
from pathlib import Path
from storage.db.database import Database
from storage.errors import InvalidInput
from storage.imports.importer import import_file

class Huge(io.RawIOBase):
    start, size, at = sys.argv[3].encode(), 2 * 10**9, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=0):
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def readinto(self, buffer):
        count = min(len(buffer), self.size - self.at)
        buffer[:count] = (self.start[self.at :] + b"x" * count)[:count]
        self.at += count
        return count

def memory(name):
    return int(re.search(rf"{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

database = Database(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
before, file = memory("VmRSS"), Huge()
try:
    import_file(database, io.BufferedReader(file, 2**20), name=sys.argv[2])
except InvalidInput as error:
    print(error.message)
print(memory("VmHWM") - before, file.at)
"""


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("rows.jsonl", '{"prompt": "'),
        ("rows.json", '[{"prompt": "'),
        ("rows.json", '{\n"prompt": "'),
        ("rows.csv", 'prompt,completion,label\n"'),
    ],
)
def test_a_line_of_two_gigabytes_is_refused_early_in_bounded_memory(
    tmp_path: Path, name: str, start: str
) -> None:
    address = f"sqlite:///{tmp_path / 'test.db'}"
    database = Database(address)
    database.migrate()
    command = [sys.executable, "-c", HUGE_LINE, address, name, start]
    message, figures = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    grown, read = map(float, figures.split())
    assert grown < 200  # MiB
    assert read < 100_000_000
    assert "longer than 16777216 bytes" in message
    assert is_empty(database)
    database.close()
