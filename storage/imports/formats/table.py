"""The table of import formats: how a record is known, and how it is converted to rows.

A record is one entry of a file; a row is one rated reply. A new format is an entry here.
"""

import math
from collections.abc import Iterator

from storage.errors import InvalidInput
from storage.imports.formats import comparisons, kto, oasst, pairs, rated_lists
from storage.imports.formats.apps import annotations, chat_trees, feel, logs, open_webui, traces
from storage.imports.formats.hints import has_whole_columns
from storage.imports.rows.fields import Fields
from storage.imports.rows.format import Columns, Format, thresholds
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped, ImportedRow, LeftOutColumn

OPTIONS = ("columns", "leave_out", "plain", "max_messages")  # of all formats
# Tried in this order: the first format that fits a record is used.
FORMATS = {
    known.name: known
    for known in (
        *(open_webui.OPEN_WEBUI, open_webui.OPEN_WEBUI_CHATS, feel.FEEL),
        *(chat_trees.LIBRECHAT, chat_trees.CHAT_UI, chat_trees.CHATGPT),
        *(logs.DIFY, logs.GRADIO),
        *(annotations.ARGILLA, annotations.LABEL_STUDIO),
        *(traces.LANGFUSE, traces.MLFLOW),
        *(oasst.FLAT, oasst.TREES),
        *(comparisons.ARENA, comparisons.HELPSTEER, comparisons.NECTAR),
        *(rated_lists.ULTRAFEEDBACK, rated_lists.DISTILABEL),
        *(pairs.OPENAI, pairs.SWIFT, pairs.PAIRS),
        *(kto.KTO, kto.SHAREGPT, kto.RATED),
    )
}


def named_format(name: str) -> Format:
    """The format of that name; raises InvalidInput, which lists them all."""
    if name not in FORMATS:
        raise InvalidInput(f"There is no import format {name[:80]!r}. {known_formats()}", field="format")
    return FORMATS[name]


def sniff(record: Columns, options: ImportOptions) -> Format | None:
    record = {name: value for name, value in record.items() if name not in options.left_out}
    if has_whole_columns(record):
        return None
    return next((known for known in FORMATS.values() if known.fits(record, options)), None)


def known_formats() -> str:
    return f"Known formats: {', '.join(FORMATS)}; `thumbloop formats` says what each looks like."


def check_options(chosen: Format, options: ImportOptions) -> None:
    """Raise InvalidInput if an option does not apply to the format, is not finite, or is missing."""
    for name in ImportOptions.model_fields:
        value = getattr(options, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInput(f"{name} cannot be {value}; give a number.", field=name)
        given = value is not None and value is not False
        if given and name not in (*OPTIONS, *chosen.options):
            raise InvalidInput(
                f"{name} has no meaning for the format {chosen.name}; leave it out.", field=name
            )
    if chosen.scored:
        thresholds(options)


def rows_of(
    chosen: Format, record: Columns, options: ImportOptions
) -> Iterator[ImportedRow | Dropped | LeftOutColumn]:
    """The rows of one record, then the columns left out; raises InvalidInput if it cannot be converted."""
    fields = Fields(record, options)
    found = list(chosen.rows(fields))  # all or none of a record
    # Without rows nothing was left out of one.
    left_out = fields.left_out(chosen.ignores) if any(isinstance(row, ImportedRow) for row in found) else []
    most = options.max_messages
    for row in found:
        if isinstance(row, ImportedRow) and most is not None and len(row.turns) > most:
            yield Dropped(f"more than {most} messages")
        else:
            yield row
    yield from left_out
