"""What an import may take in memory, whatever the size of its file.

Dictionaries, run lengths and compression let a kilobyte of Parquet stand for gigabytes, so a row group is
refused by its metadata before it is read, and a row by its Arrow values before Python objects are made of
them. The text of a JSON record is bounded already; here its values are.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import InvalidInput
from storage.imports.files.records import MIB, RECORD_MEMORY

# A row group may take this much memory while it is read, or this many times its compressed size.
GROUP_MEMORY, GROUP_TIMES = 36 * MIB, 36
# A file may have this many values, or this many for each of its bytes. Real rows hold text.
FILE_VALUES, VALUES_PER_BYTE = 10_000_000, 10
ROWS_AT_ONCE, TEXT_AT_ONCE = 32, 8 * MIB
# All rows of a file together may take this much as Python objects, or this many times the size of the file.
ROWS_MEMORY, ROWS_TIMES = 1024 * MIB, 100
# Bytes of a Python object in a list or a dictionary, and of a dictionary besides its values.
OBJECT, DICTIONARY = 64, 192
# Bytes of a value in an Arrow list: its index, its levels, and the offset of each list around it.
LISTED, OFFSET = 16, 4


def check_parquet(metadata: Any, size: int) -> None:
    """Raise InvalidInput if reading the file, of `size` bytes, would exceed the budget."""
    values = first = 0
    most = max(FILE_VALUES, VALUES_PER_BYTE * size)
    for at in range(metadata.num_row_groups):
        group = metadata.row_group(at)
        columns = [group.column(number) for number in range(group.num_columns)]
        values += sum(column.num_values for column in columns)
        packed = sum(column.total_compressed_size for column in columns)
        # A page is at once compressed, unpacked and decoded.
        needed = 3 * sum(column.total_uncompressed_size for column in columns) + sum(
            column.num_values * _listed_size(metadata.schema.column(number))
            for number, column in enumerate(columns)
        )
        allowed = max(GROUP_MEMORY, GROUP_TIMES * packed)
        if needed > allowed:
            raise InvalidInput(
                f"Row group {at + 1} of the Parquet file (rows {first + 1} to {first + group.num_rows}) "
                f"needs up to {-(-needed // MIB)} MiB of memory, but its {packed} compressed bytes allow "
                f"{allowed // MIB} MiB. Write the file with fewer rows in a row group or shorter lists.",
                code="unpacks_too_large",
                field="file",
            )
        first += group.num_rows
    if values > most:
        raise InvalidInput(
            f"The Parquet file has {values} values, but its {size} bytes allow {most}. Split it, or leave "
            "out columns that are not imported.",
            code="unpacks_too_large",
            field="file",
        )


def allowed_rows(size: int) -> int:
    """How many bytes the rows of a file of this size may take as Python objects, all together."""
    return max(ROWS_MEMORY, ROWS_TIMES * size)


def repeated_texts(metadata: Any) -> list[str]:
    """The paths of texts in lists. Read as dictionaries, they share one copy of a text as the file does."""
    return [
        column.path
        for column in map(metadata.schema.column, range(metadata.num_columns))
        if column.max_repetition_level and column.physical_type == "BYTE_ARRAY"
    ]


def rows_at_once(group: Any) -> int:
    """How many rows of the row group may be in memory: each may repeat the longest text outside lists."""
    return min(max(TEXT_AT_ONCE // max(int(group.total_byte_size), 1), 1), ROWS_AT_ONCE)


def python_size(cells: Any) -> int:
    """About how many bytes these Arrow values take as Python objects; may stop at RECORD_MEMORY."""
    if isinstance(cells, pa.ChunkedArray):
        return sum(map(python_size, cells.chunks))
    if isinstance(cells, pa.ExtensionArray):
        return python_size(cells.storage)
    kind = cells.type
    own = len(cells) * OBJECT
    if own > RECORD_MEMORY:
        return own
    if pa.types.is_struct(kind):
        return own + len(cells) * DICTIONARY + sum(map(python_size, cells.flatten()))
    if pa.types.is_map(kind):
        return own + sum(map(python_size, _entries(cells)))
    if pa.types.is_nested(kind):
        return own + python_size(cells.flatten())
    if pa.types.is_dictionary(kind):
        return own + _sum(pc.take(_text_sizes(cells.dictionary), cells.indices))
    return own + _sum(_text_sizes(cells))


def _listed_size(column: Any) -> int:
    """Bytes of memory for each value of a column in lists; other columns are read a few rows at a time."""
    if not column.max_repetition_level:
        return 0
    width = column.length if column.physical_type == "FIXED_LEN_BYTE_ARRAY" else 0
    return LISTED + int(width) + OFFSET * int(column.max_repetition_level)


def _entries(maps: Any) -> Iterator[Any]:
    """The keys and the values of these maps; `keys` and `items` are those of the whole array."""
    start, end = maps.offsets[0].as_py(), maps.offsets[-1].as_py()
    for entries in (maps.keys, maps.items):
        yield entries.slice(start, end - start)


def _text_sizes(cells: Any) -> Any:
    """The bytes of each text as a Python string, which takes up to four for a character beyond ASCII."""
    kind = cells.type
    if pa.types.is_fixed_size_binary(kind):
        return pa.repeat(kind.byte_width, len(cells))
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return _text_sizes(
            cells.cast(pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary())
        )
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pc.binary_length(cells)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        stored, characters = pc.binary_length(cells), pc.utf8_length(cells)
        return pc.if_else(pc.equal(stored, characters), stored, pc.multiply(characters, 4))
    return pa.repeat(0, len(cells))


def _sum(sizes: Any) -> int:
    return int(pc.sum(pc.cast(sizes, pa.int64())).as_py() or 0)
