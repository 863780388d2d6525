"""Cells of CSV that stand for nothing, and what becomes of a row that has them.

pandas writes a missing value as an empty cell and reads words such as nan as one; people's files hold both.
"""

from collections.abc import Mapping
from typing import Any

from storage.imports.rows.fields import CHATS, PROMPTS, REPLIES
from storage.imports.rows.options import ImportOptions, words

# What a record is no rating without, by its names.
NEEDED = {
    **dict.fromkeys(PROMPTS, "prompt"),
    **dict.fromkeys(REPLIES, "completion"),
    **dict.fromkeys(CHATS, CHATS[0]),
    **{name: name for name in ("chosen", "rejected", "score", "rating", "label", "kto_tag")},
}
WORDS = ("prompt", "completion", "chosen", "rejected")


def with_words(
    value: dict[str, Any], missing: Mapping[str, str], options: ImportOptions
) -> tuple[dict[str, Any], dict[str, str]]:
    """The record with the words that the options take as words, and what is still missing, by our names."""
    said = words(options.up_words) | words(options.down_words)
    kept = {name: word for name, word in missing.items() if options.plain or word.casefold() in said}
    kept = {name: word for name, word in kept.items() if word}
    left = {options.meant.get(name, name): word for name, word in missing.items() if name not in kept}
    return value | kept, left


def why_none(missing: Mapping[str, str], options: ImportOptions, field: str | None = None) -> str | None:
    """Why there is no row: the cell of this field, or of any that a row needs, is missing; None if not."""
    yours = {ours: name for name, ours in options.meant.items()}
    for name, word in missing.items():
        meaning = NEEDED.get(name, name if name == options.score_column else None)
        if meaning is not None and (field is None or meaning == NEEDED.get(field, field)):
            hint = " (plain=true takes it as words)" if word and meaning in WORDS else ""
            return f"{yours.get(name, name)} is {word or 'empty'}, which is no value in CSV{hint}"
    return None
