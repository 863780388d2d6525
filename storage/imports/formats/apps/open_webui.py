"""Open WebUI's feedback export, and its export of chats, whose messages may have an annotation.

A feedback is one object: `data` has the rating, `meta` identifies the message, and `snapshot` is the chat at
that time, a tree of messages by id. Both follow the application's public code and have changed over time.
"""

import re
from collections.abc import Mapping
from typing import Any

from storage.chats.conversation import Turn, without_reasoning
from storage.errors import InvalidInput
from storage.imports.files.records import MOST_VALUES, kind_of
from storage.imports.formats.apps.trees import by_id, path_to
from storage.imports.rows.cells import read_note, read_number, read_tags, read_time, shown
from storage.imports.rows.fields import Fields
from storage.imports.rows.format import Columns, Format, Rows, Sample
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped, ImportedRow
from storage.imports.rows.turns import checked, read_turns, with_system

# Collapsed sections that Open WebUI keeps in a reply and does not send to the model later. Those of the type
# reasoning are kept apart in all formats.
FOLDED = re.compile(r'<details type="(?!reasoning")[^"]*"[^>]*>.*?</details>', re.DOTALL)
# The reasons that Open WebUI offers with each thumb. Changing the thumb kept the other's until 2026.
GOOD_REASONS = (
    "accurate_information followed_instructions_perfectly showcased_creativity positive_attitude "
    "attention_to_detail thorough_explanation"
)
BAD_REASONS = (
    "dont_like_the_style too_verbose not_helpful not_factually_correct didnt_fully_follow_instructions "
    "refused_when_it_shouldnt_have being_lazy"
)
REASONS = {True: GOOD_REASONS.split(), False: BAD_REASONS.split()}
LOWEST_GOOD = 6  # of the scores from 1 to 10 that Open WebUI asks for, those from here on belong to thumbs up


def feedback_rows(fields: Fields) -> Rows:
    data = _object(fields, "data")
    kind = fields.get("type")
    if kind is not None and kind != "rating":
        yield Dropped(f"feedback of the type {shown(kind)}")
        return
    rating = data.get("rating")
    if rating is None or str(rating) in ("", "0"):
        yield Dropped("feedback without a rating")
        return
    meta = _object(fields, "meta")
    history, system = _history(fields.get("snapshot"))
    if meta.get("message_id") is None:
        raise InvalidInput("meta.message_id is missing.", field="meta.message_id")
    turns = _turns(path_to(history, meta["message_id"], "snapshot"), fields)
    person = fields.get("user_id")
    yield _row(
        with_system(turns, system),
        data,
        "data.",
        data.get("details") or fields.get("details"),
        read_note(data.get("model_id") or meta.get("model_id"), "data.model_id"),
        fields.get("updated_at") or fields.get("created_at"),
        (f"{meta.get('chat_id')}/{meta['message_id']}", str(person)) if person else None,
    )


def chat_rows(fields: Fields) -> Rows:
    """A row for each message with an annotation."""
    history, system = _history(fields)
    person, chat_id = fields.get("user_id"), fields.get("id")
    found = total = 0
    for message_id, message in history.items():
        noted = message.get("annotation") if isinstance(message, Mapping) else None
        if not isinstance(noted, Mapping) or str(noted.get("rating")) in ("None", "", "0"):
            continue
        turns = with_system(_turns(path_to(history, message_id, "history"), fields), system)
        found, total = found + 1, total + len(turns)
        if total > MOST_VALUES:
            raise InvalidInput(
                f"The chat gives rows of more than {MOST_VALUES} messages; split it.", field="chat"
            )
        yield _row(
            turns,
            noted,
            "annotation.",
            noted.get("details"),
            read_note(message.get("model"), "model"),
            message.get("timestamp"),
            (f"{chat_id}/{message_id}", str(person)) if person else None,
        )
    if not found:
        yield Dropped("chat without a rating")


def _row(
    turns: list[Turn],
    data: Mapping[str, Any],
    where: str,
    details: Any,
    model: str | None,
    moment: Any,
    ballot: tuple[str, str] | None,
) -> ImportedRow:
    rating = data.get("rating")
    if str(rating) not in ("1", "-1", "1.0", "-1.0"):
        raise InvalidInput(f"{where}rating must be 1 or -1, not {shown(rating)}.", field=f"{where}rating")
    label = str(rating).startswith("1")
    score = details.get("rating") if isinstance(details, Mapping) else None
    reasons = [reason for reason in read_tags(data.get("reason")) if reason not in REASONS[not label]]
    return ImportedRow(
        checked(turns, "the rated message"),
        label,
        tags=(*reasons, *read_tags(data.get("tags")), *_score_tag(score, label)),
        comment=read_note(data.get("comment"), f"{where}comment"),
        model=model,
        voted_at=read_time(moment, "updated_at"),
        ballot=ballot,
    )


def _score_tag(score: Any, label: bool) -> list[str]:
    """The score from 1 to 10 as a tag, if it was given with this thumb."""
    if not isinstance(score, int | str) or score == "":
        return []
    agrees = (read_number(score, "details.rating") >= LOWEST_GOOD) == label
    return [f"rating:{score}"] if agrees else []


def _turns(path: list[Any], fields: Fields) -> list[Turn]:
    if any(message.get("sources") for message in path):
        fields.note("messages[].sources")  # what was found for the model to read
    turns = read_turns([_with_output(message) for message in path], "snapshot", "assistant")
    apart = (without_reasoning(turn) for turn in turns)
    return [t._replace(content=_unfolded(t.content)) if t.role == "assistant" else t for t in apart]


def _with_output(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Newer chats keep what was generated as items in `output`, beside a content that may be empty."""
    items = message.get("output")
    if message.get("content") or not isinstance(items, list):
        return message
    said: dict[str, list[Any]] = {"message": [], "reasoning": []}
    for item in items:
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind not in said:
            raise InvalidInput(
                f"snapshot: a message has {shown(kind)} in its output, not text.", field="snapshot"
            )
        parts = item.get("content") or item.get("summary") or []
        said[kind] += [part.get("text") for part in parts if isinstance(part, Mapping)]
    texts = {kind: "".join(text for text in found if isinstance(text, str)) for kind, found in said.items()}
    return {**message, "content": texts["message"], "reasoning": texts["reasoning"]}


def _history(level: Any) -> tuple[Mapping[str, Any], Any]:
    """The messages by id and the system prompt; nested two levels deep today, fewer in older exports."""
    levels = [level if isinstance(level, Mapping) else {}]
    while isinstance(levels[-1].get("chat"), Mapping) and len(levels) < 3:
        levels.append(levels[-1]["chat"])
    for level in reversed(levels):
        history = level.get("history")
        messages = history.get("messages") if isinstance(history, Mapping) else None
        if isinstance(messages, list):
            messages = by_id(messages)
        if isinstance(messages, Mapping):
            params = level.get("params")
            system = params.get("system") if isinstance(params, Mapping) else None
            return messages, system or level.get("system")
    raise InvalidInput(
        "snapshot holds no messages; use the feedback export of the admin page, which has the chats in it.",
        field="snapshot",
    )


def _unfolded(text: str) -> str:
    """The text without the tool calls that Open WebUI embeds in it."""
    without = FOLDED.sub("", text)
    return without if without == text else without.strip()


def _object(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name)
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{name} must be an object, not {kind_of(value)}.", field=name)
    return value


def _is_feedback(record: Columns, _options: ImportOptions) -> bool:
    meta = record.get("meta")
    # Tasks of Label Studio have data and an empty meta, too.
    return isinstance(record.get("data"), Mapping) and (
        "snapshot" in record or (isinstance(meta, Mapping) and bool(meta.keys() & {"message_id", "chat_id"}))
    )


def _is_chat(record: Columns, _options: ImportOptions) -> bool:
    chat = record.get("chat")
    return isinstance(chat, Mapping) and isinstance(chat.get("history"), Mapping)


MESSAGES: dict[str, dict[str, Any]] = {
    "m1": {"id": "m1", "parentId": None, "role": "user", "content": "Name a spice."},
    "m2": {"id": "m2", "parentId": "m1", "role": "assistant", "content": "Cumin.", "model": "llm"},
}
OPEN_WEBUI = Format(
    "openwebui",
    "Open WebUI's feedback export: data, meta, snapshot",
    "the rated message on its own branch, with reason, tags, comment, model and time; of one person's "
    "votes on a message the latest. Tool calls that it keeps folded in a reply are taken out",
    _is_feedback,
    feedback_rows,
    (
        Sample(
            "",
            {
                "id": "f1",
                "user_id": "u1",
                "type": "rating",
                "data": {
                    "rating": 1,
                    "model_id": "llm",
                    "reason": "attention_to_detail",
                    "details": {"rating": 7},
                },
                "meta": {"chat_id": "c1", "message_id": "m2"},
                "snapshot": {"chat": {"chat": {"history": {"messages": MESSAGES, "currentId": "m2"}}}},
                "updated_at": 1769000600,
            },
        ),
    ),
)
OPEN_WEBUI_CHATS = Format(
    "openwebui-chats",
    "Open WebUI's export of chats: chat with history",
    "a row for each message with an annotation, as older versions kept ratings",
    _is_chat,
    chat_rows,
    (
        Sample(
            "",
            {
                "id": "c1",
                "user_id": "u1",
                "title": "Spices",
                "chat": {
                    "models": ["llm"],
                    "history": {
                        "currentId": "m2",
                        "messages": MESSAGES
                        | {"m2": MESSAGES["m2"] | {"annotation": {"rating": -1, "reason": "too_verbose"}}},
                    },
                },
            },
        ),
    ),
    ignores=frozenset({"title", "share_id", "archived", "pinned", "folder_id", "chat"}),
)
