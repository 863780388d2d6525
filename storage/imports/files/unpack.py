"""Compressed files and UTF-16 as plain files of UTF-8, within a budget: a small file may hold gigabytes."""

import codecs
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa

from storage.errors import InvalidInput
from storage.files.disk_full import is_full, no_room
from storage.imports.files.records import MIB, PIECE

CODECS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
SUFFIXES = (".gz", ".gzip", ".bz2", ".zst", ".zstd")
# A compressed file may become this long, or this many times its length.
UNPACKED, UNPACKED_TIMES = 16 * MIB, 100
# Byte order marks; without one, UTF-16 is recognised by the zero bytes of the first two letters.
UTF_16: dict[bytes, str] = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
ZEROS: dict[tuple[bool, ...], str] = {(False, True) * 2: "utf-16-le", (True, False) * 2: "utf-16-be"}


@contextmanager
def plain(file: IO[bytes], name: str) -> Iterator[tuple[IO[bytes], str]]:
    """The file unpacked and in UTF-8, and its name without the suffix of its packing; raises InvalidInput."""
    with (
        seekable(file) as packed,
        _unpacked(packed, name) as (unpacked, inner),
        _in_utf_8(unpacked, name) as text,
    ):
        yield text, inner


@contextmanager
def seekable(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """The file, or a copy of a pipe, because an import may read its file twice."""
    if file.seekable():
        yield file
    else:
        with _written(lambda copy: shutil.copyfileobj(file, copy), "A copy of the input") as copy:
            yield copy


@contextmanager
def _unpacked(file: IO[bytes], name: str) -> Iterator[tuple[IO[bytes], str]]:
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    codec = next((codec for start, codec in CODECS.items() if head.startswith(start)), None)
    if codec is None:
        yield file, name
        return
    allowed = max(UNPACKED, UNPACKED_TIMES * size)

    def unpack(copy: IO[bytes]) -> None:
        try:
            with pa.CompressedInputStream(pa.PythonFile(_Borrowed(file), mode="r"), codec) as stream:
                while piece := stream.read(PIECE):
                    copy.write(piece)
                    if copy.tell() > allowed:
                        raise InvalidInput(
                            f"{name} unpacks to more than {allowed // MIB} MiB, which is all that a "
                            f"{codec} file "
                            "of its size may; split it, or import it unpacked.",
                            code="unpacks_too_large",
                            field="file",
                        )
        except (pa.ArrowException, EOFError) as error:
            raise InvalidInput(f"{name} is a damaged {codec} file: {error}.", field="file") from error
        except OSError as error:
            if error.errno is not None:  # of the disk
                raise
            raise InvalidInput(f"{name} is a damaged {codec} file: {error}.", field="file") from error

    inner = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in SUFFIXES else name
    with _written(unpack, f"{name} unpacked") as copy:
        yield copy, inner


@contextmanager
def _in_utf_8(file: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    head = file.read(4)
    file.seek(0)
    encoding = UTF_16.get(head[:2]) or ZEROS.get(tuple(byte == 0 for byte in head))
    if encoding is None:
        yield file
        return
    decoder = codecs.getincrementaldecoder(encoding)()

    def translate(copy: IO[bytes]) -> None:
        try:
            while piece := file.read(PIECE):
                copy.write(decoder.decode(piece).encode())
            copy.write(decoder.decode(b"", final=True).encode())
        except UnicodeError as error:
            raise InvalidInput(
                f"{name} is UTF-16 with a fault: {error}; save it as UTF-8.", field="file"
            ) from error

    with _written(translate, f"{name} as UTF-8") as copy:
        yield copy


@contextmanager
def _written(write: Callable[[IO[bytes]], None], what: str) -> Iterator[IO[bytes]]:
    """A temporary file with what `write` writes, at its beginning."""
    with tempfile.TemporaryFile() as copy:
        try:
            write(copy)
            copy.flush()
        except OSError as error:
            if is_full(error):
                raise no_room(f"{what} in {tempfile.gettempdir()}", error.strerror) from error
            raise
        copy.seek(0)
        yield copy


class _Borrowed(io.RawIOBase):
    """A file whose reader closes only this."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        piece = self._file.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)
