"""A small file takes little memory, whatever it unpacks to; ordinary files of the same shapes are read."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.db.database import Database
from storage.errors import InvalidInput
from storage.imports.files.records import MOST_VALUES, Record
from storage.imports.files.source import open_source
from storage.imports.importer import import_file
from tests.support.imported import MESSAGES, counts, read, values

SMALL = 1_000_000  # bytes of a file
GROWTH = 200  # MiB of the process that imports it

# Imports each file that stdin names in a process of its own, and prints the growth in MiB and the outcome.
IMPORTER = r"""
import os, re, shutil, sys
from pathlib import Path

import pyarrow.compute, pyarrow.parquet
from storage.db.database import Database
from storage.errors import InvalidInput
from storage.imports.importer import import_file

def memory(name):
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

def grow(path):
    copy = path.with_name("copy.db")
    shutil.copy(sys.argv[1], copy)
    database = Database(f"sqlite:///{copy}")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before, outcome = memory("VmRSS"), "imported"
    try:
        report = import_file(database, path, skip_bad=True)
        outcome = f"{report.accepted} accepted, {report.rejected} rejected"
    except InvalidInput as error:
        outcome = error.message
    print(memory("VmHWM") - before, outcome.replace("\n", " "), flush=True)

for line in sys.stdin:
    if (child := os.fork()) == 0:
        try:
            grow(Path(line.strip()))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        print(10**6, f"killed by signal {status}", flush=True)
"""
Import = Callable[[Path], tuple[int, str]]


@pytest.fixture(scope="module")
def import_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Import]:
    """import_alone(file) returns the growth of a process that imports it, in MiB, and what it says."""
    empty = tmp_path_factory.mktemp("empty") / "empty.db"
    database = Database(f"sqlite:///{empty}")
    database.migrate()
    database.close()
    command = [sys.executable, "-c", IMPORTER, str(empty)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as importer:
        assert importer.stdin is not None
        assert importer.stdout is not None
        stdin, stdout = importer.stdin, importer.stdout

        def run(path: Path) -> tuple[int, str]:
            print(path, file=stdin, flush=True)
            grown, _, outcome = stdout.readline().strip().partition(" ")
            return int(grown), outcome

        yield run
        stdin.close()


def repeated(value: Any, times: int, kind: pa.DataType | None = None) -> pa.Array:
    """An array that holds the value once in memory where Arrow can."""
    if isinstance(value, str | bytes) and kind is None:
        zeros = pa.repeat(pa.scalar(0, pa.int32()), times)
        return pa.DictionaryArray.from_arrays(zeros, pa.array([value]))
    return pa.repeat(pa.scalar(value, kind), times)


def in_lists(values: pa.Array, lists: int, where: str) -> pa.Array:
    """The values in lists: in `one` of them all, or `even`."""
    if where == "one":
        ends = [0, *[len(values)] * lists]
    else:
        ends = [len(values) * at // lists for at in range(lists + 1)]
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)


@st.composite
def columns(draw: st.DrawFn, rows: int, most_values: int) -> pa.Array:
    """A column of any shape: repeated values in lists, maps and structs, or none of them."""
    text = draw(st.sampled_from(["x", "é", "long", "longer", "longest, with ☀"]))
    text = {"long": "x" * 1000, "longer": "ab" * 30_000, "longest, with ☀": "☀" + "x" * 11_000_000}.get(
        text, text
    )
    shape = draw(
        st.sampled_from(
            ["flat", "list", "structs", "map", "lists in lists", "binary", "fixed", "numbers", "nulls"]
        )
    )
    count = rows if shape == "flat" else draw(st.integers(rows, most_values))
    where = draw(st.sampled_from(["one", "even"]))
    leaf = repeated(text, count)
    if shape == "flat":
        return leaf
    if shape == "numbers":
        leaf = repeated(draw(st.integers(-1, 1)), count, draw(st.sampled_from([pa.int8(), pa.float64()])))
    elif shape == "nulls":
        leaf = pa.nulls(count, draw(st.sampled_from([pa.int8(), pa.string()])))
    elif shape == "binary":
        leaf = repeated(text.encode(), count)
    elif shape == "fixed":
        count = min(count, 100_000)
        leaf = repeated(b"x" * 100, count, pa.binary(100))
    elif shape == "structs":
        leaf = pa.StructArray.from_arrays([repeated("user", count), leaf], ["role", "content"])
    elif shape == "lists in lists":
        leaf = in_lists(leaf, draw(st.integers(1, count)), draw(st.sampled_from(["one", "even"])))
        leaf = in_lists(leaf, len(leaf), "even")
    elif shape == "map":
        offsets = pa.array([count * at // rows for at in range(rows + 1)], pa.int32())
        return pa.MapArray.from_arrays(offsets, repeated("k", count), leaf)
    return in_lists(leaf, rows, where)


@st.composite
def parquet_files(draw: st.DrawFn) -> bytes:
    rows = draw(st.sampled_from([1, 3, 40, 1000]))
    most = draw(st.sampled_from([2000, 200_000, 1_500_000]))
    names = draw(
        st.sampled_from([["prompt"], ["prompt", "completion"], ["completion", "correction", "tags"]])
    )
    table = {name: draw(columns(rows, max(most, rows))) for name in names} | {"label": repeated(True, rows)}
    out = io.BytesIO()
    pq.write_table(
        pa.table(table),
        out,
        compression=draw(st.sampled_from(["none", "zstd", "gzip"])),
        use_dictionary=draw(st.booleans()) if most < 10_000 else True,
        dictionary_pagesize_limit=draw(st.sampled_from([100, 100_000_000])) if most < 10_000 else 100_000_000,
        data_page_size=draw(st.sampled_from([1000, 1 << 30])) if most < 10_000 else 1 << 30,
        store_schema=draw(st.booleans()),
        row_group_size=draw(st.sampled_from([7, 100_000])),
    )
    return out.getvalue()


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=parquet_files())
def test_no_small_parquet_file_takes_much_memory(
    import_alone: Import, tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    if len(data) < SMALL:
        folder = tmp_path_factory.mktemp("import")
        (folder / "rows.parquet").write_bytes(data)
        grown, outcome = import_alone(folder / "rows.parquet")
        shutil.rmtree(folder)
        assert grown < GROWTH, outcome


def parquet(columns: dict[str, pa.Array], **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="zstd", store_schema=False, **options)
    return out.getvalue()


MANY = 1_500_000  # as many as the metadata of a row group may say
LONG = "x" * 1000
TURNS = [{"role": ("user", "assistant")[n % 2], "content": "a", "rating": 1} for n in range(18_000)]
BOMBS: dict[str, Callable[[], bytes]] = {
    "a.parquet": lambda: parquet({"tags": in_lists(repeated(LONG, MANY), 1, "one")}),
    "long rows.parquet": lambda: parquet(
        {
            "prompt": pa.array([str(n) for n in range(20)]),
            "completion": repeated("x" * 6_000_000, 20),
            "correction": repeated("y" * 6_000_000, 20),
            "label": repeated(True, 20),
        }
    ),
    "one page.parquet": lambda: parquet({"prompt": pa.array(["x" * 100_000_000])}, use_dictionary=False),
    "fixed.parquet": lambda: parquet(
        {"a": in_lists(repeated(b"x" * 4000, 100_000, pa.binary(4000)), 1, "one")}
    ),
    "many rows.parquet": lambda: parquet({"label": repeated(True, 50_000_000)}),
    "objects.jsonl": lambda: b'{"prompt": [' + b"{}," * 330_000 + b"0]}",
    "objects.json": lambda: b'[{"prompt": [' + b"{}," * 330_000 + b"0]}]",
    "lists.json": lambda: b'[{"prompt": ' + b"[" * 400_000 + b"]" * 400_000 + b"}]",
    "pairs.jsonl": lambda: b'{"a": [' + b'{"a":[0]},' * 99_000 + b"0]}",
    "cells.csv": lambda: b'prompt,label\n"[' + b'{""role"":0},' * 70_000 + b'{""role"":0}]",true\n',
    "columns.csv": lambda: b",".join(b"%x" % n for n in range(150_000)) + b"\n",
    "ratings.jsonl": lambda: json.dumps({"conversation": TURNS}).encode(),
    "fewer ratings.jsonl": lambda: b"\n".join(
        json.dumps({"conversation": [*TURNS[:600], {"role": "user", "content": str(n)}]}).encode()
        for n in range(4)
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_bomb_takes_much_memory(import_alone: Import, tmp_path: Path, name: str) -> None:
    data = BOMBS[name]()
    assert len(data) <= SMALL
    (tmp_path / name).write_bytes(data)
    grown, outcome = import_alone(tmp_path / name)
    assert grown < GROWTH, outcome


def test_the_refusal_of_a_row_group_names_it_the_budget_and_the_remedy() -> None:
    rows = pa.concat_arrays(
        [
            in_lists(repeated(7, 100, pa.int8()), 10, "even"),
            in_lists(repeated(7, 8_000_000, pa.int8()), 10, "one"),
        ]
    )
    with pytest.raises(InvalidInput) as caught:
        read(parquet({"prompt": rows}, row_group_size=10))
    assert re.fullmatch(
        r"Row group 2 of the Parquet file \(rows 11 to 20\) needs up to 153 MiB of memory, but its \d+ "
        r"compressed bytes allow 36 MiB\. Write the file with fewer rows in a row group or shorter lists\.",
        caught.value.message,
    )
    assert caught.value.code == "unpacks_too_large"


def test_a_file_of_far_more_values_than_bytes_is_refused_before_they_are_read() -> None:
    with pytest.raises(InvalidInput, match=r"has 50000000 values, but its \d+ bytes allow 10000000\."):
        next(iterate(BOMBS["many rows.parquet"]()))


def test_a_row_that_takes_too_much_memory_is_refused_and_the_others_are_read() -> None:
    texts = in_lists(repeated(LONG, 100_000), 2, "one")
    first, second = read(parquet({"prompt": pa.array(["a", "b"]), "many": texts}))
    assert first.fault == (
        "The row needs more than 32 MiB of memory, most of it for the column 'many'; "
        "split the row or leave it out."
    )
    assert second.value == {"prompt": "b", "many": []}


def test_reading_ends_where_the_rows_together_take_too_much() -> None:
    data = parquet({"prompt": repeated("x" * 1_000_000, 2000)})
    records = list(iterate(data))
    assert len(records) < 1100
    assert records[-1].fault is not None
    assert "take more than 1024 MiB, which is all that a file of this size may unpack to" in records[-1].fault


def iterate(data: bytes) -> Iterator[Record]:
    """The records without their values."""
    with open_source(io.BytesIO(data)) as opened:
        for record in opened.records():
            yield Record(record.position, record.done, fault=record.fault)


def test_records_of_too_many_values_are_refused_and_the_others_are_read() -> None:
    many = json.dumps({"prompt": [0] * MOST_VALUES})
    good = {"prompt": "," * (MOST_VALUES + 1)}  # in a text
    for text, name in (
        (f"{many}\n{json.dumps(good)}", "rows.jsonl"),
        (f"[{many}, {json.dumps(good)}]", "rows.json"),
    ):
        first, second = read(text.encode(), name)
        assert first.fault is not None
        assert f"holds more than {MOST_VALUES} values; split it" in first.fault
        assert second.value == good
    cell = json.dumps([0] * MOST_VALUES)
    (only,) = read(f'prompt\n"{cell}"\n'.encode(), "rows.csv")
    assert only.fault == f"The cell holds more than {MOST_VALUES} values; split it or leave it out."


MESSAGE = pa.struct([("role", pa.string()), ("content", pa.large_string())])
ORDINARY: dict[str, Any] = {
    "map": pa.map_(pa.string(), pa.list_(pa.string())),
    "structs": pa.struct({"deep": pa.list_(pa.struct({"text": pa.string(), "at": pa.timestamp("us")}))}),
    "fixed": pa.list_(pa.binary(2)),
    "pairs": pa.list_(pa.float32(), 2),
    "lists": pa.list_(pa.list_(pa.string())),
    "choice": pa.dictionary(pa.int8(), pa.string()),
    "bytes": pa.list_(pa.binary()),
    "decimals": pa.list_(pa.decimal128(30, 2)),
    "views": pa.list_view(pa.string()),
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "map": st.lists(st.tuples(TEXTS, st.lists(TEXTS, max_size=3)), max_size=3),
    "structs": st.fixed_dictionaries(
        {"deep": st.lists(st.fixed_dictionaries({"text": TEXTS | st.none(), "at": st.none()}), max_size=3)}
    ),
    "fixed": st.lists(st.binary(min_size=2, max_size=2), max_size=3),
    "pairs": st.lists(st.just(0.5), min_size=2, max_size=2),
    "lists": st.lists(st.lists(TEXTS, max_size=3) | st.none(), max_size=3),
    "choice": st.sampled_from(["a", "b"]),
    "bytes": st.lists(st.binary(max_size=3), max_size=3),
    "decimals": st.just([]),
    "views": st.lists(TEXTS, max_size=3),
}


@given(
    rows=st.lists(
        st.fixed_dictionaries({k: v | st.none() for k, v in CELLS.items()}), min_size=1, max_size=60
    ),
    dictionary=st.booleans(),
    limit=st.sampled_from([1, 1 << 20]),
    group=st.integers(1, 60),
    stored=st.booleans(),
    version=st.sampled_from(["1.0", "2.0"]),
)
@settings(max_examples=60)
def test_ordinary_files_of_the_same_shapes_are_read(
    rows: list[dict[str, Any]], dictionary: bool, limit: int, group: int, stored: bool, version: Any
) -> None:
    schema = pa.schema(list(ORDINARY.items()))
    out = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(rows, schema),
        out,
        use_dictionary=dictionary,
        dictionary_pagesize_limit=limit,
        row_group_size=group,
        store_schema=stored,
        data_page_version=version,
        data_page_size=100,
        write_batch_size=3,
    )
    assert values(read(out.getvalue())) == rows


def test_an_ordinary_file_of_many_messages_is_imported(database: Database, tmp_path: Path) -> None:
    rows = [row | {"completion": f"Answer {at}"} for at, row in enumerate(MESSAGES * 400)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=150)
    assert counts(import_file(database, tmp_path / "rows.parquet")) == (2000, 0, 0, 0)
