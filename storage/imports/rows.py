"""Imported rows in their normalised form, and the conversions and checks that all formats share.

Every function raises InvalidInput with a reason that names the column and the value.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from storage.chats.chats import check_text
from storage.db.tables import now
from storage.errors import InvalidInput
from storage.imports.records import kind_of

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatbot": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
# (least value, units per second): Unix times from these values on are in nano-, micro- or milliseconds.
FINER_THAN_SECONDS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)  # an earlier time has another unit: no chat was rated then
SLACK = timedelta(days=1)  # for wrong clocks and missing time zones


class Turn(NamedTuple):
    role: str  # system, user, assistant
    content: str


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """A rated conversation: an optional system message, then user and assistant in turn, the reply last."""

    turns: tuple[Turn, ...]
    label: bool
    tags: tuple[str, ...] = ()
    comment: str | None = None
    correction: str | None = None
    model: str | None = None  # as the source names it
    voted_at: datetime | None = None
    origin: tuple[str, str] | None = None  # message id and user hash of a Thumbloop export

    @property
    def key(self) -> str:
        """A hash of conversation and label, and in a Thumbloop export of message id and user too."""
        said: list[Any] = [self.turns[:-1], self.turns[-1].content, self.label]
        if self.origin is not None:
            said.append(self.origin)
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Dropped:
    """Rows left out on purpose: by an option, or because they have no vote."""

    reason: str
    rows: int = 1


def shown(value: Any) -> str:
    """A value for an error message, short and printable."""
    if isinstance(value, str):
        return repr(value[:80])
    return repr(value)[:80] if isinstance(value, int | float) else kind_of(value)


def read_turns(value: Any, name: str, role: str) -> list[Turn]:
    """Turns from text (by `role`), a message or a list of them, with role and content or from and value."""
    if isinstance(value, str):
        return [Turn(role, value)]
    messages = [value] if isinstance(value, Mapping) else value
    if not isinstance(messages, list):
        raise InvalidInput(f"{name} must be text or a list of messages, not {kind_of(value)}.", field=name)
    return [_turn(message, f"{name}.{at}") for at, message in enumerate(messages)]


def conversation(prompt: Any, reply: Any, name: str) -> list[Turn]:
    """The prompt and the reply as one conversation.

    The reply is text, one assistant message, or a conversation that ends with it. Then the prompt
    may be missing, the beginning of that conversation, or the text of one of its user messages.
    """
    if reply is None or reply == []:
        raise InvalidInput(f"{name} is missing.", field=name)
    ending = read_turns(reply, name, "assistant")
    beginning = read_turns(prompt, "prompt", "user") if prompt is not None else []
    if len(ending) == 1:
        if prompt is None:
            raise InvalidInput("prompt is missing.", field="prompt")
        return beginning + ending
    if ending[0].role == "assistant":
        raise InvalidInput(f"{name} must be one assistant message, not {len(ending)} messages.", field=name)
    asked = [turn.content.strip() for turn in ending if turn.role == "user"]
    known = prompt.strip() in asked if isinstance(prompt, str) else ending[: len(beginning)] == beginning
    if not known:
        what = "a user message" if isinstance(prompt, str) else "the beginning"
        raise InvalidInput(f"prompt is not {what} of the conversation in {name}.", field="prompt")
    return ending


def with_system(turns: list[Turn], system: Any) -> list[Turn]:
    """The conversation with `system`, a separate column, as its system prompt, unless it has one already."""
    has_one = bool(turns) and turns[0].role == "system"
    return turns if has_one or not isinstance(system, str) or not system else [Turn("system", system), *turns]


def checked(turns: Sequence[Turn], name: str) -> tuple[Turn, ...]:
    """The conversation, if its roles alternate, its texts can be stored and its reply is not empty."""
    roles = [turn.role for turn in turns]
    if not roles or roles[-1] != "assistant":
        raise InvalidInput(f"{name} must end with an assistant message.", field=name)
    body = roles[1:] if roles[0] == "system" else roles
    if body != ["user", "assistant"] * (len(body) // 2):
        raise InvalidInput(
            f"The messages before {name} must alternate user and assistant and end with the user's, "
            f"after at most one system message; they are {', '.join(roles[:20]) or 'none'}.",
            field="prompt",
        )
    if not turns[-1].content:
        raise InvalidInput(f"{name} is empty.", field=name)
    for turn in turns:
        check_text(turn.content, f"{turn.role} message")
    return tuple(turns)


def read_label(row: Mapping[str, Any], name: str) -> bool:
    label = row.get(name)
    if name == "kto_tag" and label in ("true", "false"):  # LLaMA-Factory accepts text
        return bool(label == "true")
    if label is True or label is False:
        return label
    raise InvalidInput(f"{name} must be true (up) or false (down), not {shown(label)}.", field=name)


def read_number(value: Any, name: str) -> float:
    """A finite number, given as a number or as text, as in CSV."""
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise InvalidInput(f"{name} must be a number, not {shown(value)}.", field=name)
    return number


def read_time(value: Any, name: str) -> datetime | None:
    """A time in ISO 8601, or Unix time in any unit, from 2000 to a day from now; without a zone it is UTC."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, datetime):
            moment = value
        elif isinstance(value, str):
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


def _turn(message: Any, name: str) -> Turn:
    if not isinstance(message, Mapping):
        raise InvalidInput(f"{name} must be a message, not {kind_of(message)}.", field=name)
    # In Parquet and Arrow every message has the keys of all messages, null where it lacks one.
    role = message.get("role") or message.get("from")
    content = message.get("content")
    known = ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        raise InvalidInput(
            f"{name}.role must be system, user or assistant, not {shown(role)}.", field=f"{name}.role"
        )
    return Turn(known, _text(message.get("value") if content is None else content, f"{name}.content"))


def _text(content: Any, name: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(parts):
            return "".join(texts)
        raise InvalidInput(f"{name} holds more than text, which cannot be imported.", field=name)
    raise InvalidInput(f"{name} must be text, not {kind_of(content)}.", field=name)
