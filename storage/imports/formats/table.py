"""The import formats of rated data: how to detect a record of each, and how to convert it to rows.

A record is one entry of a file; a row is one rated reply. The formats of other chat applications are in
storage.imports.formats.open_webui.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.chats.conversation import Turn
from storage.db.ids import is_id
from storage.errors import InvalidInput
from storage.imports.formats.open_webui import feel_rows, is_feel, is_open_webui, open_webui_rows
from storage.imports.rows.cells import read_label, read_note, read_number, read_tags, read_time
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped, ImportedRow
from storage.imports.rows.turns import checked, conversation, with_system

Columns = Mapping[str, Any]
Rows = Iterator[ImportedRow | Dropped]

PROMPTS = ("prompt", "instruction", "question")
REPLIES = ("completion", "response", "reply", "answer", "output")
CHATS = ("conversations", "messages")
SCORES = ("score", "rating")
KTO_TAGS = ("kto_tag", "label")
# Column names in data sets of Argilla, Hugging Face and others; {} is chosen or rejected.
RATINGS = ("rating_{}", "{}_rating", "{}-rating", "score_{}", "{}_score", "{}_avg_rating")
MODELS = ("{}_model_version", "{}_model", "{}-model", "model_version", "model")


@dataclass(frozen=True)
class Format:
    name: str
    about: str  # for people: the columns that identify it
    fits: Callable[[Columns, ImportOptions], bool]
    rows: Callable[[Columns, ImportOptions], Rows]
    options: tuple[str, ...] = ()  # the options it supports besides max_messages


def _kto_rows(record: Columns, options: ImportOptions) -> Rows:
    if isinstance(record.get("prompt"), str) and _is_ours(record):
        raise InvalidInput(
            "This is an export of the shape kto-text: its prompt has a chat template in it, which a model "
            "would get twice. Export the shape kto and import that.",
            field="prompt",
        )
    turns = conversation(record.get("prompt"), record.get("completion"), "completion")
    yield _rated_row(record, turns, "completion", read_label(record, "label"))


def _pair_rows(record: Columns, options: ImportOptions) -> Rows:
    halves = []
    for name, label in (("chosen", True), ("rejected", False)):
        turns = conversation(_first(record, ("prompt", "conversations")), record.get(name), name)
        halves.append(_rated_row(record, turns, name, label, side=f"{name}_"))
    chosen, rejected = halves
    if chosen.turns[:-1] != rejected.turns[:-1]:
        raise InvalidInput("chosen and rejected differ before their last message.", field="rejected")
    if chosen.turns == rejected.turns:
        yield Dropped("chosen and rejected are the same", 2)
    elif (least := options.min_rating) is not None and _rating(record, "chosen") < least:
        yield Dropped(f"chosen is rated below {least:g}", 2)
    elif (most := options.max_rating_rejected) is not None and _rating(record, "rejected") > most:
        yield Dropped(f"rejected is rated above {most:g}", 2)
    else:
        yield from halves


def _rated_rows(record: Columns, options: ImportOptions) -> Rows:
    name = _first_name(record, REPLIES) or _first_name(record, CHATS) or REPLIES[0]
    turns = conversation(_first(record, PROMPTS), record.get(name), name)
    column = options.score_column or _first_name(record, SCORES) or SCORES[0]
    score = read_number(record.get(column), column)
    up_from, down_to = _thresholds(options)
    row = _rated_row(record, turns, name, score >= up_from)
    yield Dropped(f"{column} is between {down_to:g} and {up_from:g}") if down_to < score < up_from else row


def _sharegpt_rows(record: Columns, options: ImportOptions) -> Rows:
    name = _first_name(record, CHATS) or CHATS[0]
    turns = conversation([], record.get(name), name)
    yield _rated_row(record, turns, name, read_label(record, _first_name(record, KTO_TAGS) or KTO_TAGS[0]))


def _rated_row(record: Columns, turns: list[Turn], name: str, label: bool, side: str = "") -> ImportedRow:
    """The row, with the provenance columns of a Thumbloop export; `side` is their prefix in a pair."""
    ours = _is_ours(record, side)
    return ImportedRow(
        checked(with_system(turns, record.get("system")), name),
        label,
        tags=read_tags(record.get(f"{side}tags")),
        comment=read_note(record.get(f"{side}comment"), "comment"),
        correction=read_note(record.get(f"{side}correction"), "correction"),
        model=read_note(_first(record, [column.format(side[:-1]) for column in MODELS]), "model"),
        voted_at=read_time(record.get(f"{side}voted_at"), f"{side}voted_at"),
        origin=(str(record[f"{side}message_id"]), str(record[f"{side}user_hash"])) if ours else None,
    )


def _is_ours(record: Columns, side: str = "") -> bool:
    """Whether the record has the columns that identify a vote in a Thumbloop export."""
    message_id, user_hash = record.get(f"{side}message_id"), record.get(f"{side}user_hash")
    return isinstance(message_id, str) and isinstance(user_hash, str) and is_id(message_id)


def _is_rated(record: Columns, options: ImportOptions) -> bool:
    scores = (options.score_column,) if options.score_column else SCORES
    return _first_name(record, scores) is not None and _first_name(record, (*REPLIES, *CHATS)) is not None


# Tried in this order: the first format that fits a record is used.
FORMATS = {
    known.name: known
    for known in (
        Format(
            "openwebui",
            "Open WebUI's feedback export: data, meta, snapshot",
            is_open_webui,
            open_webui_rows,
        ),
        Format(
            "feel",
            "huggingface/feel: conversation with role, content and rating",
            is_feel,
            feel_rows,
        ),
        Format(
            "pairs",
            "preference pairs: prompt, chosen, rejected",
            lambda record, _: "chosen" in record and "rejected" in record,
            _pair_rows,
            ("min_rating", "max_rating_rejected"),
        ),
        Format(
            "kto",
            "TRL's KTO rows: prompt, completion, label",
            lambda record, _: "completion" in record and "label" in record,
            _kto_rows,
        ),
        Format(
            "sharegpt",
            "LLaMA-Factory's KTO rows: conversations or messages, kto_tag or label",
            lambda record, _: bool(_first_name(record, CHATS) and _first_name(record, KTO_TAGS)),
            _sharegpt_rows,
        ),
        Format(
            "rated",
            "rated replies: prompt, completion or response, score or rating",
            _is_rated,
            _rated_rows,
            ("score_column", "up_from", "down_to"),
        ),
    )
}


def named_format(name: str) -> Format:
    """The format of that name; raises InvalidInput, which lists them all."""
    if name not in FORMATS:
        raise InvalidInput(f"There is no import format {name[:80]!r}. {known_formats()}", field="format")
    return FORMATS[name]


def sniff(record: Columns, options: ImportOptions) -> Format | None:
    return next((known for known in FORMATS.values() if known.fits(record, options)), None)


def known_formats() -> str:
    return "Known formats: " + "; ".join(f"{f.name} ({f.about})" for f in FORMATS.values()) + "."


def check_options(chosen: Format, options: ImportOptions) -> None:
    """Raise InvalidInput if an option does not apply to the format, is not finite, or is missing."""
    for name, value in options:
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInput(f"{name} cannot be {value}; give a number.", field=name)
        if value is not None and name not in ("max_messages", *chosen.options):
            raise InvalidInput(
                f"{name} has no meaning for the format {chosen.name}; leave it out.", field=name
            )
    if "up_from" in chosen.options:
        _thresholds(options)


def rows_of(chosen: Format, record: Columns, options: ImportOptions) -> Rows:
    """The rows of one record; raises InvalidInput with the reason if it cannot be converted."""
    for row in chosen.rows(record, options):
        most = options.max_messages
        if isinstance(row, ImportedRow) and most is not None and len(row.turns) > most:
            yield Dropped(f"more than {options.max_messages} messages")
        else:
            yield row


def _thresholds(options: ImportOptions) -> tuple[float, float]:
    up_from, down_to = options.up_from, options.down_to
    if up_from is None or down_to is None:
        raise InvalidInput(
            "Scores need up_from and down_to: from where on a reply is good, and up to where it is bad.",
            field="up_from" if up_from is None else "down_to",
        )
    if down_to >= up_from:
        raise InvalidInput(f"down_to ({down_to:g}) must be below up_from ({up_from:g}).", field="down_to")
    return up_from, down_to


def _rating(record: Columns, name: str) -> float:
    column = _first_name(record, [rating.format(name) for rating in RATINGS]) or f"rating_{name}"
    return read_number(record.get(column), column)


def _first_name(record: Columns, names: Sequence[str]) -> str | None:
    return next((name for name in names if record.get(name) is not None), None)


def _first(record: Columns, names: Sequence[str]) -> Any:
    name = _first_name(record, names)
    return record[name] if name is not None else None
