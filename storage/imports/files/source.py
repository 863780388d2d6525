"""Opens the file or folder of an import: detects its kind, and reads its records any number of times.

The kind is detected from the first bytes, not from the name alone: many .json files hold JSON lines.
Compressed files are unpacked (`unpack.py`), archives of several files are refused. What the columns mean is
known to storage.imports.formats.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from storage.errors import InvalidInput
from storage.imports.files.chatgpt_folder import CHATS, VOTES, read_chats
from storage.imports.files.dataset_info import Described, described
from storage.imports.files.json_records import read_json_lines, read_json_values
from storage.imports.files.records import Record
from storage.imports.files.tables import read_csv, read_dataset, read_parquet, splits_in
from storage.imports.files.unpack import SUFFIXES, plain

KINDS = "JSON lines, JSON, CSV, Parquet, or a folder that `datasets` saved"
HEAD = 4096
ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!": "rar",
}
OLD_EXCEL = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# In the first bytes of the zip archives in which Excel and LibreOffice keep their sheets.
SPREADSHEETS = (b"[Content_Types].xml", b"mimetypeapplication/vnd.oasis.opendocument")
POINTER = b"version https://git-lfs.github.com/spec/"
SEPARATORS = (b",", b";", b"\t")
# In a folder that `datasets` did not save, the files of the first kind found are read.
TABLES = (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv")
MOST_NOTED = 20  # files


@dataclass(frozen=True)
class Source:
    """What is imported; each call of `records` starts again at the first record."""

    name: str
    size: int  # bytes
    records: Callable[[], Iterator[Record]]
    notes: tuple[str, ...] = ()  # for the report: which files of a folder are read


@contextmanager
def open_source(source: Path | IO[bytes], name: str | None = None) -> Iterator[Source]:
    """Open a file, a folder or a stream; raises InvalidInput if it cannot be read or its kind is unknown."""
    if isinstance(source, Path):
        shown = name or source.name
        if source.is_dir():
            yield _folder(source, shown)
            return
        try:
            file = source.open("rb")
        except OSError as error:
            raise InvalidInput(f"{shown} cannot be read: {error.strerror}.", field="file") from error
        with file, plain(file, shown) as (text, inner):
            yield _file(text, inner)
    else:
        with plain(source, name or "the upload") as (text, inner):
            yield _file(text, inner)


def _file(file: IO[bytes], name: str) -> Source:
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(HEAD)
    kind = _kind(head, name)

    def records() -> Iterator[Record]:
        file.seek(0)
        if kind == "parquet":
            return read_parquet(file, size)
        if kind == "csv":
            return read_csv(file)
        if kind == "json lines":
            return read_json_lines(file)
        return read_json_values(file, array=kind == "json array")

    return Source(name, size, records)


def _kind(head: bytes, name: str) -> str:
    suffix = Path(name).suffix.lower()
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    zipped = head.startswith(b"PK\x03\x04") and any(mark in head for mark in SPREADSHEETS)
    if zipped or head.startswith(OLD_EXCEL):
        raise InvalidInput(
            f"{name} is a spreadsheet program's own file; save its sheet as CSV in UTF-8 and import that.",
            code="spreadsheet",
            field="file",
        )
    if head.startswith(POINTER):
        raise InvalidInput(
            f"{name} is the pointer that Git LFS keeps in place of a large file; get the file itself with "
            "`git lfs pull`.",
            field="file",
        )
    for start, archive in ARCHIVES.items():
        if head.startswith(start):
            raise InvalidInput(
                f"{name} is a {archive} archive, which is not unpacked here; import the files in it.",
                code="archive",
                field="file",
            )
    if head.startswith(b"PAR1"):
        return "parquet"
    if suffix in (".csv", ".tsv"):
        return "csv"
    if text.startswith(b"["):
        return "json array"
    if text.startswith(b"{"):
        return "json objects" if _is_indented(text) else "json lines"
    if suffix in (".jsonl", ".ndjson", ".json") or (not text and suffix != ".parquet"):
        return "json lines"
    first = text.split(b"\n", 1)[0]
    if any(separator in first for separator in SEPARATORS) and b"\x00" not in text and suffix in ("", ".txt"):
        return "csv"
    raise InvalidInput(f"{name} is not a kind of file that can be imported; send {KINDS}.", field="file")


def _is_indented(text: bytes) -> bool:
    """Whether an object continues after its first line; JSON lines have a complete one on each."""
    first, _, rest = text.partition(b"\n")
    try:
        json.loads(first)
    except json.JSONDecodeError as error:
        # JSON lines with a truncated first line fail alike, but their next line begins with a brace.
        return error.pos >= len(error.doc.rstrip()) and rest.strip() != b"" and not rest.startswith(b"{")
    except (ValueError, RecursionError):
        return False
    return False


def _folder(folder: Path, name: str) -> Source:
    if any((folder / state).is_file() for state in ("state.json", "dataset_dict.json")):
        size = sum(path.stat().st_size for path in folder.rglob("*.arrow"))
        return Source(name, size, lambda: read_dataset(folder, size), splits_in(folder))
    if (chats := folder / CHATS).is_file() and (votes := folder / VOTES).is_file():
        size = chats.stat().st_size
        return Source(name, size, lambda: read_chats(chats, votes))
    renamed: dict[Path, Described] = {folder / one.file: one for one in described(folder)}
    files, others = _files_in(folder)
    if renamed:
        files, others = sorted(renamed), [path for path in sorted({*files, *others}) if path not in renamed]
    if not files:
        raise InvalidInput(
            f"The folder {name} holds no data set: neither what `Dataset.save_to_disk` writes, nor "
            f"{', '.join(TABLES)} files.",
            field="file",
        )
    sizes = [path.stat().st_size for path in files]
    notes = (
        [f"read {path.relative_to(folder).as_posix()}" for path in files[:MOST_NOTED]]
        if len(files) > 1
        else []
    )
    notes += [f"not read: {path.relative_to(folder).as_posix()}" for path in others[:MOST_NOTED]]

    def records() -> Iterator[Record]:
        before = 0
        for path, size in zip(files, sizes, strict=True):
            shown = path.relative_to(folder).as_posix()
            with open_source(path, shown) as one:
                found = one.records()
                if path in renamed:
                    found = _renamed(found, renamed[path])
                yield from _placed(found, shown, before)
            before += size

    return Source(name, sum(sizes), records, tuple(notes))


def _renamed(records: Iterator[Record], names: Described) -> Iterator[Record]:
    for record in records:
        yield record if record.value is None else replace(record, value=names.renamed(record.value))


def _placed(records: Iterator[Record], name: str, before: int) -> Iterator[Record]:
    try:
        for record in records:
            yield replace(record, position=f"{name}, {record.position}", done=before + record.done)
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error.message}", code=error.code, field="file") from error


def _files_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of the first kind that is found, of every split, and the others; hidden ones are neither."""
    every = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    for suffix in TABLES:
        found = [path for path in every if _table_suffix(path) == suffix]
        if found:
            return found, [path for path in every if path not in found]
    return [], every


def _table_suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix.lower() in SUFFIXES else path.suffix
