"""A record that knows which of its columns were read: the others were left out, and that is said or refused.

The rule: a column that may change what the model read or what is judged is used, or refused, or named as left
out.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from storage.chats.conversation import Turn
from storage.errors import InvalidInput
from storage.imports.files.records import kind_of
from storage.imports.rows.options import MEANINGS, NO_OPTIONS, ImportOptions, shown_columns
from storage.imports.rows.row import LeftOutColumn
from storage.imports.rows.turns import message_extras, read_turns

PROMPTS = ("prompt", "instruction", "question", "query", "input")
REPLIES = ("completion", "response", "reply", "answer", "output")
CHATS = ("conversations", "messages", "conversation")
SYSTEMS = ("system", "system_prompt", "system_message")
# The model may have read what stands in them, so a row without it would be another row.
INPUTS = (
    "tools functions tool_calls function_call images image videos video audios audio files attachments "
    "documents document docs passages passage context contexts history examples knowledge"
)
READ_BY_MODEL = frozenset((*INPUTS.split(), *CHATS, *PROMPTS, *SYSTEMS))
# Other names of such columns: Tools, chat_history, system_instruction, retrieved_docs, image_path.
LIKE_INPUTS = re.compile(
    r"(chat|message|conversation|dialog|dialogue|previous|prior|past)_?(history|turns|messages|context)|"
    r"(system|developer)_?(prompt|message|instruction|instructions|text)?|preprompt|(available_)?(tools|functions)|"
    r"(retrieved|source|reference|search|supporting|input|grounding)_?"
    r"(docs|documents|passages|results|context|contexts|chunks)|few_?shot(_?examples)?|"
    r"(image|video|audio)s?_?(path|paths|url|urls|file|files|base64)"
)
# Ids, times, places and figures that neither the model read nor anybody judged by.
HARMLESS = re.compile(
    r"(.*[_-])?(id|ids|uuid|hash|sha256|index|idx|at|date|time|timestamp|tstamp|tokens|length|len|count|version|url|"
    r"link|license|language|lang|source|dataset|split|subset|domain|category|"
    r"model|models|num_.*|n_.*|lead_time|metadata|meta|created|updated)|__index_level_0__|Unnamed: \d+|",
    re.IGNORECASE,
)
# What a vote is read from: a column that differs from one of them in its case alone may be meant instead.
RATINGS = ("label", "kto_tag", "score", "rating", "chosen", "rejected")
VOTE_COLUMNS = frozenset((*REPLIES, *CHATS, *RATINGS))
NOTHING = ("[]", "{}", "null", "None")  # as text, in a column of things that the model read


class Fields(Mapping[str, Any]):
    """The columns of a record; whatever is asked for counts as read, whatever `has` looks at does not."""

    def __init__(self, record: Mapping[str, Any], options: ImportOptions = NO_OPTIONS) -> None:
        self._record = {name: value for name, value in record.items() if name not in options.left_out}
        self._read: set[str] = set()
        self._extras = {name for name in options.left_out if is_full(record.get(name))}
        self.options = options
        self.whole = False  # whether the reply came with its conversation, so that other columns repeat it

    def __getitem__(self, name: str) -> Any:
        value = self._record[name]
        self._read.add(name)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """As Mapping's, which is slower."""
        self._read.add(name)
        return self._record.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._record)

    def __len__(self) -> int:
        return len(self._record)

    def __contains__(self, name: object) -> bool:
        return name in self._record

    def has(self, name: str) -> bool:
        """Whether the column holds something."""
        return is_full(self._record.get(name))

    def peek(self, name: str) -> Any:
        """The value, without counting as read."""
        return self._record.get(name)

    def one_of(self, names: Sequence[str], meaning: str) -> str | None:
        """The column of these that holds something; raises InvalidInput if several do and differ."""
        if (ours := MEANINGS.get(meaning)) in self.options.meant.values():
            names = [ours] if ours else names
        names = [name for name in names if name in self._record]
        if not names:
            return None
        full = [name for name in names if self.has(name)]
        for other in full[1:]:
            if self[other] != self[full[0]]:
                hint = f"columns={meaning}={full[0]}" if meaning in MEANINGS else f"leave_out={other}"
                raise InvalidInput(
                    f"{full[0]} and {other} may both be the {meaning}; say which it is: {hint}.",
                    field="columns",
                )
        empty = [name for name in names if self._record.get(name) is not None]
        return next(iter(full or empty), None)

    def turns(self, name: str, role: str) -> list[Turn]:
        """The conversation in this column; what its messages hold besides is noted as left out."""
        value = self.get(name)
        self._extras |= {f"{name}[].{key}" for key in message_extras(value)}
        return read_turns(value, name, role, plain=self.options.plain)

    def inner(self, record: Any, name: str = "record") -> "Fields":
        """The columns of an object in this record; `take` says in the end what of it was left out."""
        if not isinstance(record, Mapping):
            raise InvalidInput(f"{name} must be an object, not {kind_of(record)}.", field=name)
        return Fields(record, self.options)

    def take(self, inner: "Fields", ignored: Collection[str] = ()) -> None:
        self._extras |= {left.name for left in inner.left_out(ignored)}

    def note(self, column: str) -> None:
        """Name as left out what stands within a column."""
        self._extras.add(column)

    def missing(self, meaning: str) -> InvalidInput:
        """The error for a meaning that no column has."""
        column = MEANINGS[meaning]
        return InvalidInput(
            f"{column} is missing: the columns are {shown_columns(self._record)}; name yours with "
            f"columns={meaning}=….",
            field=column,
        )

    def left_out(self, ignored: Collection[str] = ()) -> list[LeftOutColumn]:
        """What was not read; raises InvalidInput if the model may have read it."""
        unread = [
            name
            for name in self._record
            if name not in self._read and name not in ignored and self.has(name)
            if not (is_read(name) and self._record[name] in NOTHING)
        ]
        for name in unread:
            twin = name.casefold() if isinstance(name, str) else name
            if twin in VOTE_COLUMNS & self._read and self.has(twin) and self[twin] != self._record[name]:
                raise InvalidInput(
                    f"{twin} and {name} may both be meant, and they differ; say which it is with columns, or "
                    f"leave_out={name}.",
                    field="columns",
                )
            repeats = self.whole and name in (*CHATS, *PROMPTS)
            if is_read(name) and not repeats:
                raise InvalidInput(
                    f"The model may have read {name}, which is not imported; name it with columns, or "
                    f"leave it out: leave_out={name}.",
                    field=str(name)[:80],
                )
        named = [name for name in unread if not is_harmless(name)] + [
            f"{name}.{inner}"
            for name in unread
            if is_harmless(name) and isinstance(held := self._record[name], Mapping)
            for inner in held
            if is_read(inner) and is_full(held[inner])
        ]
        return [LeftOutColumn(str(name)[:80]) for name in [*named, *sorted(self._extras)]]


@lru_cache(maxsize=4096)
def is_read(name: Any) -> bool:
    """Whether the model may have read what stands in a column of this name."""
    if not isinstance(name, str):
        return False
    return name.casefold() in READ_BY_MODEL or LIKE_INPUTS.fullmatch(name.casefold()) is not None


@lru_cache(maxsize=4096)
def is_harmless(name: Any) -> bool:
    return isinstance(name, str) and HARMLESS.fullmatch(name) is not None


def is_full(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and not (isinstance(value, list | dict | tuple) and not value)
