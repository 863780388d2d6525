"""Import formats of other chat applications: Open WebUI's feedback export and huggingface/feel's log.

Open WebUI exports one object per feedback: `data` has the rating, `meta` identifies the message, and
`snapshot` is the chat at that time, a tree of messages by id. feel logs a conversation after every event,
with a rating on each message: 1, -1 or 0. Both follow the applications' public code and have changed over
time.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from storage.errors import InvalidInput
from storage.imports.files.records import MOST_VALUES, kind_of
from storage.imports.rows.cells import read_note, read_number, read_tags, read_time, shown
from storage.imports.rows.row import Dropped, ImportedRow
from storage.imports.rows.turns import checked, read_turns, with_system

# Collapsed sections that Open WebUI keeps in a reply; they are not sent to the model later.
FOLDED = '<details type="'
FOLDED_END = "</details>"


def is_open_webui(record: Mapping[str, Any], _options: object = None) -> bool:
    return isinstance(record.get("data"), Mapping) and ("meta" in record or "snapshot" in record)


def open_webui_rows(record: Mapping[str, Any], _options: object = None) -> Iterator[ImportedRow | Dropped]:
    data = _object(record, "data")
    kind = record.get("type")
    if kind is not None and kind != "rating":
        yield Dropped(f"feedback of the type {shown(kind)}")
        return
    rating = data.get("rating")
    if rating is None or str(rating) in ("", "0"):
        yield Dropped("feedback without a rating")
        return
    if str(rating) not in ("1", "-1", "1.0", "-1.0"):
        raise InvalidInput(f"data.rating must be 1 or -1, not {shown(rating)}.", field="data.rating")
    meta = _object(record, "meta")
    history, system = _open_webui_history(record)
    turns = read_turns(_path(history, meta.get("message_id")), "snapshot", "assistant")
    turns = [t._replace(content=_unfolded(t.content)) if t.role == "assistant" else t for t in turns]
    details = data.get("details") or record.get("details")
    score = details.get("rating") if isinstance(details, Mapping) else None
    yield ImportedRow(
        checked(with_system(turns, system), "the rated message"),
        str(rating).startswith("1"),
        tags=(
            *read_tags(data.get("reason")),
            *read_tags(data.get("tags")),
            *([f"rating:{score}"] if isinstance(score, int | str) else []),
        ),
        comment=read_note(data.get("comment"), "data.comment"),
        model=read_note(data.get("model_id") or meta.get("model_id"), "data.model_id"),
        voted_at=read_time(record.get("updated_at") or record.get("created_at"), "updated_at"),
    )


def is_feel(record: Mapping[str, Any], _options: object = None) -> bool:
    chat = record.get("conversation")
    return isinstance(chat, list) and any(
        isinstance(message, Mapping) and message.keys() >= {"role", "rating"} for message in chat
    )


def feel_rows(record: Mapping[str, Any], _options: object = None) -> Iterator[ImportedRow | Dropped]:
    """One row per rated reply; an unrated reply that was rewritten is a thumbs down with a correction."""
    chat = record.get("conversation")
    if not isinstance(chat, list):
        raise InvalidInput(f"conversation must be a list, not {kind_of(chat)}.", field="conversation")
    voted_at = read_time(record.get("timestamp"), "timestamp")
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


def _open_webui_history(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], Any]:
    """The messages by id and the system prompt; nested two levels deep today, fewer in older exports."""
    snapshot = record.get("snapshot")
    level = snapshot if isinstance(snapshot, Mapping) else {}
    levels = [level]
    while isinstance(level.get("chat"), Mapping) and len(levels) < 3:
        level = level["chat"]
        levels.append(level)
    for level in reversed(levels):
        history = level.get("history")
        messages = history.get("messages") if isinstance(history, Mapping) else None
        if isinstance(messages, list):
            messages = {str(m.get("id")): m for m in messages if isinstance(m, Mapping)}
        if isinstance(messages, Mapping):
            params = level.get("params")
            system = params.get("system") if isinstance(params, Mapping) else None
            return messages, system or level.get("system")
    raise InvalidInput(
        "snapshot holds no messages; use the feedback export of the admin page, which has the chats in it.",
        field="snapshot",
    )


def _path(messages: Mapping[str, Any], message_id: Any) -> list[Any]:
    """The messages from the first to this one, by parentId."""
    path: list[Any] = []
    step = message_id
    while step is not None:
        message = messages.get(step) if isinstance(step, str) else None
        if not isinstance(message, Mapping):
            raise InvalidInput(f"snapshot lacks the message {shown(step)}.", field="meta.message_id")
        if len(path) > len(messages):
            raise InvalidInput("snapshot: a message is its own ancestor.", field="snapshot")
        path.append(message)
        step = message.get("parentId")
    if not path:
        raise InvalidInput("meta.message_id is missing.", field="meta.message_id")
    return path[::-1]


def _unfolded(text: str) -> str:
    """The text without the reasoning and tool calls that Open WebUI embeds in it."""
    kept: list[str] = []
    at = 0
    while (start := text.find(FOLDED, at)) >= 0 and (end := text.find(FOLDED_END, start)) >= 0:
        kept.append(text[at:start])
        at = end + len(FOLDED_END)
    kept.append(text[at:])
    return "".join(kept).strip() if at else text


def _object(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name)
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{name} must be an object, not {kind_of(value)}.", field=name)
    return value
