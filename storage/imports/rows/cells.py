"""Single values of a record: labels, numbers, times, tags and notes, and how messages show a value.

Every function raises InvalidInput with a reason that names the column and the value.
"""

import json
import math
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from storage.chats.chats import check_text
from storage.db.tables import now
from storage.errors import InvalidInput
from storage.imports.files.records import kind_of
from storage.imports.rows.options import NO_OPTIONS, ImportOptions, words

# (least value, units per second): Unix times from these values on are in nano-, micro- or milliseconds.
FINER_THAN_SECONDS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
UNIX_TIME = re.compile(r"\s*\d{9,}(\.\d+)?\s*")  # shorter digits are a date
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)  # an earlier time has another unit: no chat was rated then
# Besides true and false, these words are labels, in any case and with spaces or - for _.
UP = "true up thumbsup thumbup 👍 good chosen desirable like liked upvote upvoted"
DOWN = "false down thumbsdown thumbdown 👎 bad rejected undesirable dislike disliked downvote downvoted"
UP_WORDS, DOWN_WORDS = set(UP.split()), set(DOWN.split())
WORDS_HINT = " Say what your words mean with up_words and down_words."
# Why a reply ended, as OpenAI, Anthropic, Gemini and Mistral say it.
CUT = ("length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded")
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
JUDGE_NAME = re.compile(r"[\w./-]{1,80}")
SLACK = timedelta(days=1)  # for wrong clocks and missing time zones


def shown(value: Any) -> str:
    """A value for an error message, short and printable."""
    if isinstance(value, str):
        return repr(value[:80])
    return repr(value)[:80] if isinstance(value, int | float) else kind_of(value)


def read_label(value: Any, name: str, options: ImportOptions = NO_OPTIONS) -> bool:
    """True for thumbs up: from true or false, a word of the table, or one that the options name.

    Where the options name true or false, as for a column `is_toxic`, they say what it means.
    """
    up, down = words(options.up_words), words(options.down_words)
    if isinstance(value, bool) and not (up | down) & {"true", "false"}:
        return value
    text = str(value).casefold() if isinstance(value, str | int | float) else ""
    if up & down:
        raise InvalidInput(f"up_words and down_words both name {min(up & down)!r}.", field="up_words")
    if not (up or down) and isinstance(value, str):
        text = re.sub(r"[\s_-]|\ufe0f|[\U0001f3fb-\U0001f3ff]", "", text)
        up, down = UP_WORDS, DOWN_WORDS
    for number in {text, text.removesuffix(".0")}:  # 1.0 is 1 where a column had gaps
        if number in up or number in down:
            return number in up
    hint = "" if value is None or isinstance(value, list | dict) else WORDS_HINT
    raise InvalidInput(f"{name} must be true (up) or false (down), not {shown(value)}.{hint}", field=name)


def read_number(value: Any, name: str) -> float:
    """A finite number, given as a number or as text, as in CSV."""
    try:
        number = float(value) if isinstance(value, str | int | float | Decimal) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        hint = ""
        if has_decimal_comma(value):
            hint = f" Write it with a point: {value.strip().replace(',', '.')}."
        raise InvalidInput(f"{name} must be a number, not {shown(value)}.{hint}", field=name)
    return number


def has_decimal_comma(value: Any) -> bool:
    """Whether it would be a number with a point in place of its comma."""
    return isinstance(value, str) and DECIMAL_COMMA.fullmatch(value) is not None


def read_time(value: Any, name: str) -> datetime | None:
    """A time in ISO 8601, or Unix time in any unit, from 2000 to a day from now; without a zone it is UTC."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, datetime):
            moment = value
        elif isinstance(value, date):
            moment = datetime.combine(value, time())
        elif isinstance(value, str) and not UNIX_TIME.fullmatch(value):
            moment = datetime.fromisoformat(value)
        else:
            seconds = read_number(value, name)
            scale = next((unit for least, unit in FINER_THAN_SECONDS if seconds >= least), 1.0)
            moment = datetime.fromtimestamp(seconds / scale, UTC)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput(f"{name} is not a time: {shown(value)}.", field=name) from error
    if not EARLIEST <= moment <= now() + SLACK:
        why = "is before 2000" if moment < EARLIEST else "is yet to come"
        raise InvalidInput(
            f"{name} {shown(value)} {why} ({moment:%Y-%m-%d %H:%M} UTC); correct it or leave it out.",
            field=name,
        )
    return moment


def read_list(value: Any, name: str) -> list[Any]:
    """The list, or an empty one for null."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidInput(f"{name} must be a list, not {kind_of(value)}.", field=name)
    return value


def read_note(value: Any, name: str) -> str | None:
    """The text, or None for an empty one or any other type."""
    return check_text(value, name) if isinstance(value, str) and value else None


def read_tags(value: Any) -> tuple[str, ...]:
    """Tags from a list, its JSON (as in CSV), or one tag; without duplicates and values that are not text."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [value]
    tags: Iterable[Any] = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(check_text(tag, "tags") for tag in tags if isinstance(tag, str) and tag))


def read_cut(value: Any) -> bool:
    """Whether a `finish_reason` says that the reply ended at a token limit."""
    return isinstance(value, str) and value.lower() in CUT


def read_judge(value: Any) -> str | None:
    """The name of the judge model that gave the label; None where a person did."""
    name = read_note(value, "judged_by")
    if name is not None and not JUDGE_NAME.fullmatch(name):
        raise InvalidInput(
            f"judged_by must be a name of at most 80 letters, digits and ._-/, not {shown(name)}.",
            field="judged_by",
        )
    return name
