"""What a record of no known format may be, and what to do about it."""

from collections.abc import Mapping
from typing import Any

from storage.imports.rows.fields import CHATS, PROMPTS, REPLIES, is_full
from storage.imports.rows.format import Columns

NAMING = " Name yours with columns, such as columns=prompt=…,reply=…,label=…."


def hint(record: Columns) -> str:
    """A sentence that says what is missing, or how the file could be written; '' if there is none."""
    if {"columns", "index", "data"} == set(record) or set(record) == {"schema", "data"}:
        return " pandas wrote the whole table as one object; " + RECORDS
    if has_whole_columns(record):
        return " pandas wrote whole columns as objects; " + RECORDS
    if record and all(str(name).isdigit() for name in record):
        return " pandas wrote rows by their index; " + RECORDS
    inner = next((name for name, cell in record.items() if _is_table(cell)), None)
    if inner is not None:
        return f" The rows seem to lie in {str(inner)[:80]!r}; write each as a line of its own."
    if any("chosen" in str(name) or "rejected" in str(name) for name in record):
        return " Name the two replies with columns=chosen=…,rejected=…, and the prompt with prompt=…."
    if any(is_full(record.get(name)) for name in (*PROMPTS, *REPLIES, *CHATS)):
        return " A reply needs a label (label, kto_tag) or a score (score, rating)." + NAMING
    return NAMING if record else ""


RECORDS = "use to_json(…, orient='records', lines=True)."


def has_whole_columns(record: Columns) -> bool:
    """Whether each cell is a column of pandas: an object with the numbers of rows as its keys."""
    cells = [value for value in record.values() if is_full(value)]
    return bool(cells) and all(_numbered(cell) for cell in cells)


def _numbered(cell: Any) -> bool:
    return isinstance(cell, Mapping) and bool(cell) and all(str(key).isdigit() for key in cell)


def _is_table(cell: Any) -> bool:
    return (
        isinstance(cell, list)
        and bool(cell)
        and all(isinstance(row, Mapping) and not row.keys() & {"role", "from", "content"} for row in cell)
    )
