"""What a Parquet file really unpacks to: the sizes in its page headers, which its reader goes by.

The footer names sizes too, and a file made to harm says little there and much in its pages. The headers are
Thrift structs in the compact protocol, of which only the numbers and the end are needed. Unpacks nothing.
"""

from collections.abc import Callable
from typing import IO, Any

LONGEST_HEADER = 1024 * 1024
DEEPEST = 16  # a page header nests three deep
# Types of the compact protocol, https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
NUMBERS = (4, 5, 6)
UNCOMPRESSED, COMPRESSED = 2, 3  # fields of PageHeader


def unpacked_sizes(file: IO[bytes], metadata: Any) -> list[int]:
    """Bytes of the unpacked pages of each row group; raises ValueError where a page header is damaged."""
    return [
        sum(_chunk_size(file, group.column(number)) for number in range(group.num_columns))
        for group in (metadata.row_group(number) for number in range(metadata.num_row_groups))
    ]


def _chunk_size(file: IO[bytes], chunk: Any) -> int:
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        start = min(start, chunk.dictionary_page_offset)
    end = start + chunk.total_compressed_size
    unpacked = 0
    while start < end:
        length, fields = _page_header(file, start)
        packed, size = fields.get(COMPRESSED, -1), fields.get(UNCOMPRESSED, -1)
        if packed < 0 or size < 0:
            raise ValueError("a page header is damaged")
        unpacked += size
        start += length + packed
    return unpacked


def _page_header(file: IO[bytes], at: int) -> tuple[int, dict[int, int]]:
    """The header's length and the numbers in it by field."""
    held = 256
    while True:
        file.seek(at)
        data = file.read(held)
        try:
            reader = _Compact(data)
            fields = reader.struct()
        except IndexError:
            if len(data) < held or held >= LONGEST_HEADER:  # the statistics in a header may be long texts
                raise ValueError("a page header is damaged") from None
            held *= 16
        else:
            return reader.at, fields


class _Compact:
    """Reads a struct and goes over what it does not need; IndexError where the data ends too early."""

    def __init__(self, data: bytes) -> None:
        self.at = 0
        self._data = data

    def struct(self, depth: int = 0) -> dict[int, int]:
        if depth > DEEPEST:
            raise ValueError("a page header is damaged")
        numbers: dict[int, int] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._number()
            if head & 0xF in NUMBERS:
                numbers[field] = self._number()
            else:
                self._skip(head & 0xF, depth)
        return numbers

    def _skip(self, kind: int, depth: int, *, in_list: bool = False) -> None:
        go_over: dict[int, Callable[[], object]] = {
            TRUE: lambda: self._forward(in_list),
            FALSE: lambda: self._forward(in_list),
            BYTE: lambda: self._forward(1),
            DOUBLE: lambda: self._forward(8),
            BINARY: lambda: self._forward(self._varint()),
            LIST: lambda: self._list(depth),
            SET: lambda: self._list(depth),
            STRUCT: lambda: self.struct(depth + 1),
            **dict.fromkeys(NUMBERS, self._number),
        }
        if kind not in go_over:  # a map too, of which a page header has none
            raise ValueError("a page header is damaged")
        go_over[kind]()

    def _list(self, depth: int) -> None:
        head = self._byte()
        for _ in range(head >> 4 if head >> 4 != 0xF else self._varint()):
            self._skip(head & 0xF, depth + 1, in_list=True)

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _forward(self, count: int) -> None:
        self.at += count
        if self.at > len(self._data):
            raise IndexError

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def _number(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
