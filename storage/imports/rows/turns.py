"""Conversations from the messages of a record, and the checks that all formats share.

Every function raises InvalidInput with a reason that names the column and the value.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from storage.chats.chats import check_text
from storage.errors import InvalidInput
from storage.imports.files.records import kind_of
from storage.imports.rows.cells import shown
from storage.imports.rows.row import Turn

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
