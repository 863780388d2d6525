"""Chats that applications export as trees with votes on the messages: LibreChat, chat-ui, ChatGPT."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from storage.errors import InvalidInput
from storage.imports.files.records import MOST_VALUES, kind_of
from storage.imports.formats.apps.trees import by_id, path_to
from storage.imports.rows.cells import read_list, read_note, read_tags, read_time, shown
from storage.imports.rows.fields import Fields
from storage.imports.rows.format import Columns, Format, Rows, Sample
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped, ImportedRow
from storage.imports.rows.turns import MORE_THAN_TEXT, checked, read_turns, with_system

THUMBS = {"thumbsUp": True, "thumbsDown": False, "thumbs_up": True, "thumbs_down": False, 1: True, -1: False}
LABELLED = {"label", "kto_tag", "score", "rating", "chosen", "rejected"}  # of other formats
Message = Mapping[str, Any]


def librechat_rows(fields: Fields) -> Rows:
    options = fields.get("options")
    system = options.get("promptPrefix") if isinstance(options, Mapping) else None
    messages = by_id(list(_flattened(fields.get("messages") or fields.get("messagesTree"))), "messageId")

    def vote(message: Message) -> tuple[Any, tuple[str, ...], str | None] | None:
        given = message.get("feedback")
        if not isinstance(given, Mapping) or given.get("rating") is None:
            return None
        tag = given.get("tag")
        tags = read_tags(tag.get("key") if isinstance(tag, Mapping) else tag)
        return given["rating"], tags, read_note(given.get("text"), "feedback.text")

    def plain(message: Message) -> dict[str, Any]:
        role = "user" if message.get("isCreatedByUser") else "assistant"
        return _kept(message) | {
            "role": role,
            "content": message.get("content") or message.get("text"),
        }

    yield from _rows(messages, vote, plain, "parentMessageId", system, fields)


def chat_ui_rows(fields: Fields) -> Rows:
    given = fields.get("messages")
    listed = [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []
    # Until 2024 a chat was a list; since then each message names its ancestors and children.
    messages: dict[str, Any] = {}
    below = {
        str(child): one.get("id") for one in listed for child in read_list(one.get("children"), "children")
    }
    before: Any = None
    for at, message in enumerate(listed):
        ancestors = message.get("ancestors")
        parent = (ancestors[-1] if ancestors else None) if isinstance(ancestors, list) else before
        before = str(message.get("id") or at)
        parent = below.get(before) if below else parent
        messages[before] = {**message, "parent": parent}

    def vote(message: Message) -> tuple[Any, tuple[str, ...], str | None] | None:
        return (message["score"], (), None) if message.get("score") else None

    def plain(message: Message) -> dict[str, Any]:
        thought = {"reasoning": message.get("reasoning")}
        return _kept(message) | thought | {"role": message.get("from"), "content": message.get("content")}

    has_system = any(message.get("from") == "system" for message in listed)
    system = fields.get("preprompt")
    yield from _rows(messages, vote, plain, "parent", None if has_system else system, fields)


def chatgpt_rows(fields: Fields) -> Rows:
    """A conversation, with the votes on it from message_feedback.json as `feedback`."""
    if "mapping" not in fields:
        raise InvalidInput(
            "This is a vote of ChatGPT's export without its text; import the whole unpacked folder, where "
            "conversations.json has the text.",
            field="conversation_id",
        )
    nodes = fields["mapping"]
    if not isinstance(nodes, Mapping):
        raise InvalidInput(f"mapping must be an object, not {kind_of(nodes)}.", field="mapping")
    votes: dict[str, Message] = {}
    for given in read_list(fields.get("feedback"), "feedback"):
        one = fields.inner(given, "feedback")
        place = next((str(one[k]) for k in ("message_id", "id") if str(one.get(k)) in nodes), None)
        if place is None:
            yield Dropped("a vote that does not say which message it is on")
        else:
            votes[place] = one
    messages = {id: {**node, "id": id} for id, node in nodes.items() if isinstance(node, Mapping)}

    def vote(node: Message) -> tuple[Any, tuple[str, ...], str | None] | None:
        given = votes.get(node["id"])
        return (given.get("rating"), (), read_note(given.get("content"), "content")) if given else None

    def plain(node: Message) -> dict[str, Any]:
        message = node.get("message")
        message = message if isinstance(message, Mapping) else {}
        author, content = message.get("author"), message.get("content")
        role = author.get("role") if isinstance(author, Mapping) else "system"  # the root has no message
        parts = content.get("parts") if isinstance(content, Mapping) else None
        if isinstance(content, Mapping) and content.get("content_type") == "user_editable_context":
            fields.note("custom instructions")
        return {"role": role, "content": parts if parts and parts != [""] else ""}

    yield from _rows(messages, vote, plain, "parent", None, fields)


def _rows(
    messages: Mapping[str, Any],
    vote: Callable[[Message], tuple[Any, tuple[str, ...], str | None] | None],
    plain: Callable[[Message], dict[str, Any]],
    parent: str,
    system: Any,
    fields: Fields,
) -> Rows:
    """A row for each message with a vote, on its own branch."""
    person = fields.get("user_id") or fields.get("user")
    chat = (
        fields.get("conversationId") or fields.get("conversation_id") or fields.get("_id") or fields.get("id")
    )
    found = total = 0
    for message_id, message in messages.items():
        given = vote(message)
        if given is None:
            continue
        rating, tags, comment = given
        if not isinstance(rating, str | int | float) or rating not in THUMBS:
            raise InvalidInput(f"A vote must be thumbs up or down, not {shown(rating)}.", field="rating")
        path = path_to(messages, message_id, "the chat", parent)
        found, total = found + 1, total + len(path)
        if total > MOST_VALUES:
            raise InvalidInput(
                f"The chat gives rows of more than {MOST_VALUES} messages; split it.", field="messages"
            )
        turns = read_turns([plain(step) for step in path], "messages", "assistant")
        yield ImportedRow(
            checked(with_system(turns, system), "the rated message"),
            THUMBS[rating],
            tags=tags,
            comment=comment,
            model=read_note(message.get("model"), "model"),
            voted_at=read_time(message.get("updatedAt") or message.get("createdAt"), "updatedAt"),
            ballot=(f"{chat}/{message_id}", str(person or "")) if chat else None,
        )
    if not found:
        yield Dropped("chat without a rating")


def _flattened(messages: Any) -> Iterator[Any]:
    """LibreChat exports messages as a list, or as a tree of children."""
    waiting = list(messages) if isinstance(messages, list) else []
    while waiting:
        message = waiting.pop(0)
        yield message
        if isinstance(message, Mapping) and isinstance(message.get("children"), list):
            waiting += message["children"]


def _kept(message: Message) -> dict[str, Any]:
    """What a message holds besides text: read_turns refuses it."""
    return {key: message[key] for key in (*MORE_THAN_TEXT, "attachments") if message.get(key)}


def _is_librechat(record: Columns, _options: ImportOptions) -> bool:
    return "conversationId" in record and ("messages" in record or "messagesTree" in record)


def _is_chat_ui(record: Columns, _options: ImportOptions) -> bool:
    messages = record.get("messages")
    said = [one for one in messages if isinstance(one, Mapping)] if isinstance(messages, list) else []
    return (
        any("from" in one and one.keys() & {"score", "ancestors", "children"} for one in said)
        and not record.keys() & LABELLED
    )


def _is_chatgpt(record: Columns, _options: ImportOptions) -> bool:
    return isinstance(record.get("mapping"), Mapping) or (
        "conversation_id" in record and record.get("rating") in ("thumbs_up", "thumbs_down")
    )


LIBRECHAT = Format(
    "librechat",
    "LibreChat's export of a chat: conversationId, messages with feedback",
    "a row for each message with feedback",
    _is_librechat,
    librechat_rows,
    (
        Sample(
            "",
            {
                "conversationId": "c1",
                "title": "t",
                "messages": [
                    {
                        "messageId": "a",
                        "parentMessageId": None,
                        "text": "Name a dance.",
                        "isCreatedByUser": True,
                    },
                    {
                        "messageId": "b",
                        "parentMessageId": "a",
                        "content": [{"type": "think", "think": "Tango?"}, {"type": "text", "text": "Tango."}],
                        "isCreatedByUser": False,
                        "feedback": {"rating": "thumbsUp", "tag": "accurate_reliable", "text": "yes"},
                    },
                ],
            },
        ),
    ),
    ignores=frozenset({"title", "endpoint", "exportAt", "branches", "recursive", "options"}),
)
CHAT_UI = Format(
    "chat-ui",
    "chat-ui's conversations: messages with from, content, score",
    "a row for each message with a score of 1 or -1, on its own branch",
    _is_chat_ui,
    chat_ui_rows,
    (
        Sample(
            "",
            {
                "preprompt": "Be brief.",
                "messages": [
                    {"id": "a", "from": "user", "content": "Name a dance.", "ancestors": []},
                    {"id": "b", "from": "assistant", "content": "Tango.", "score": 1, "ancestors": ["a"]},
                    {"id": "c", "from": "assistant", "content": "Running.", "score": -1, "ancestors": ["a"]},
                ],
            },
        ),
    ),
    ignores=frozenset({"title", "rootMessageId", "assistantId", "embeddingModel", "userAgent", "sessionId"}),
)
CHATGPT = Format(
    "chatgpt",
    "ChatGPT's data export: the folder with conversations.json and message_feedback.json",
    "a row for each vote whose message is known",
    _is_chatgpt,
    chatgpt_rows,
    (
        Sample(
            "a conversation and the votes on it, which the folder brings together",
            {
                "conversation_id": "c1",
                "mapping": {
                    "r": {"parent": None, "message": None},
                    "a": {
                        "parent": "r",
                        "message": {"author": {"role": "user"}, "content": {"parts": ["Name a dance."]}},
                    },
                    "b": {
                        "parent": "a",
                        "message": {"author": {"role": "assistant"}, "content": {"parts": ["Tango."]}},
                    },
                },
                "feedback": [{"id": "b", "conversation_id": "c1", "rating": "thumbs_up"}],
            },
        ),
    ),
    ignores=frozenset(
        {
            "title",
            "current_node",
            "moderation_results",
            "plugin_ids",
            "safe_urls",
            "blocked_urls",
            "is_archived",
        }
        | {"conversation_template_id", "gizmo_id", "default_model_slug", "create_time", "update_time"}
    ),
)
