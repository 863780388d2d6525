"""Page headers of Parquet files: the unpacked size in every encoding, and bombs that hide it."""

import io
import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import InvalidInput
from storage.imports.parquet_pages import unpacked_sizes
from tests.support.imported import MESSAGES, read

ROWS = [*MESSAGES * 300, {"prompt": None, "completion": [], "label": None}]
WRITERS: dict[str, dict[str, Any]] = {
    "plain": {"compression": "none", "use_dictionary": False},
    "dictionary and zstd": {"compression": "zstd"},
    "gzip, many groups": {"compression": "gzip", "row_group_size": 70},
    "small pages": {"data_page_size": 512, "write_batch_size": 16},
    "second version of pages": {"data_page_version": "2.0", "data_page_size": 2048},
    "checksums and long statistics": {"write_page_checksum": True, "use_dictionary": False},
    "page index": {"write_page_index": True, "compression": "lz4"},
}


def written(rows: list[dict[str, Any]], **how: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **how)
    return sink.getvalue()


@pytest.mark.parametrize("how", WRITERS.values(), ids=WRITERS)
def test_the_pages_say_what_an_honest_footer_says(how: dict[str, Any]) -> None:
    data = written([*ROWS, {"prompt": [{"role": "user", "content": "x" * 50_000}]}], **how)
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    found = unpacked_sizes(io.BytesIO(data), metadata)
    footer = [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]
    assert len(found) == len(footer)
    for pages, said in zip(found, footer, strict=True):
        assert 0.3 * said < pages <= said  # the footer counts the headers too


def test_a_footer_that_hides_a_bomb_does_not_help_it() -> None:
    data = written([{"prompt": "x" * 90_000_000}], compression="zstd", use_dictionary=False)
    size = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).total_byte_size
    tail = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    honest = varint(size)
    small = bytes([0x90] + [0x80] * (len(honest) - 2) + [0])  # 8, in as many bytes
    assert data[tail:].count(honest) == 2
    lying = data[:tail] + data[tail:].replace(honest, small)
    assert pq.ParquetFile(io.BytesIO(lying)).metadata.row_group(0).total_byte_size == 8
    for bomb in (data, lying):
        with pytest.raises(InvalidInput, match=r"unpacks to 9\d{7} bytes"):
            read(bomb, "rows.parquet")


def test_damaged_page_headers_are_refused_and_never_hang() -> None:
    whole = written(ROWS[:50])
    metadata = pq.ParquetFile(io.BytesIO(whole)).metadata
    chance = random.Random(2)
    refused = 0
    for _ in range(300):
        bent = bytearray(whole)
        for _ in range(8):
            bent[chance.randrange(4, 400)] = chance.randrange(256)
        try:
            unpacked_sizes(io.BytesIO(bytes(bent)), metadata)
        except ValueError:
            refused += 1
    assert refused > 10
    with pytest.raises(ValueError, match="damaged"):
        unpacked_sizes(io.BytesIO(whole[:4] + b"\x1c" * 500), metadata)  # structs within structs


def varint(number: int) -> bytes:
    """A number as the compact protocol writes it."""
    number <<= 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
