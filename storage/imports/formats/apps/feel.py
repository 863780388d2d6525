"""huggingface/feel's log: a conversation after every event, with a rating on each message: 1, -1 or 0.

It follows the application's public code and has changed over time.
"""

from collections.abc import Mapping
from typing import Any

from storage.errors import InvalidInput
from storage.imports.files.records import MOST_VALUES, kind_of
from storage.imports.rows.cells import read_note, read_number, read_time, shown
from storage.imports.rows.fields import Fields
from storage.imports.rows.format import Columns, Format, Rows, Sample
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped, ImportedRow
from storage.imports.rows.turns import checked, read_turns


def _is_feel(record: Columns, _options: ImportOptions) -> bool:
    chat = record.get("conversation")
    return isinstance(chat, list) and any(
        isinstance(message, Mapping) and message.keys() >= {"role", "rating"} for message in chat
    )


def feel_rows(fields: Fields) -> Rows:
    """One row per rated reply; an unrated reply that was rewritten is a thumbs down with a correction."""
    chat = fields.get("conversation")
    if not isinstance(chat, list):
        raise InvalidInput(f"conversation must be a list, not {kind_of(chat)}.", field="conversation")
    voted_at = read_time(fields.get("timestamp"), "timestamp")
    none_rated, messages = True, 0
    for at, message in enumerate(chat):
        if not isinstance(message, Mapping) or message.get("role") != "assistant":
            continue
        rating = _feel_rating(message, f"conversation.{at}.rating")
        chosen, rejected = message.get("chosen"), message.get("rejected")
        rewritten = bool(chosen and rejected and chosen != rejected)
        if not rating and not rewritten:
            continue
        none_rated = False
        messages += at + 1
        if messages > MOST_VALUES:
            raise InvalidInput(
                f"conversation gives rows of more than {MOST_VALUES} messages together, one row for each "
                "rating; split it.",
                field="conversation",
            )
        reply = {"role": "assistant", "content": message.get("content") if rating else rejected}
        turns = read_turns([*chat[:at], reply], "conversation", "user")
        yield ImportedRow(
            checked(turns, f"conversation.{at}"),
            rating > 0,
            correction=read_note(chosen, "chosen") if rewritten and not rating else None,
            voted_at=voted_at,
        )
    if none_rated:
        yield Dropped("conversation without a rating")


def _feel_rating(message: Mapping[str, Any], name: str) -> int:
    rating = message.get("rating")
    if rating is None or rating == "":
        return 0
    number = read_number(rating, name)
    if number not in (-1, 0, 1):
        raise InvalidInput(f"{name} must be 1, 0 or -1, not {shown(rating)}.", field=name)
    return int(number)


FEEL = Format(
    "feel",
    "huggingface/feel: conversation with role, content and rating",
    "a row for each rated reply; an edited reply is a thumb down with its correction",
    _is_feel,
    feel_rows,
    (
        Sample(
            "",
            {
                "conversation": [
                    {"role": "user", "content": "Name a planet.", "rating": 0},
                    {"role": "assistant", "content": "Mars.", "rating": 1},
                ],
                "timestamp": "2025-03-01T12:00:00",
                "session_id": "s",
                "language": "English",
            },
        ),
    ),
)
