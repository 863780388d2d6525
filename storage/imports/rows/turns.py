"""Conversations from the messages of a record, and the checks that all formats share.

Every function raises InvalidInput with a reason that names the column and the value.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from storage.chats.chats import check_text
from storage.chats.conversation import Turn, known_role, shaped
from storage.errors import InvalidInput
from storage.imports.files.records import kind_of


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
    if all(turn.role == "assistant" for turn in ending):
        raise InvalidInput(f"{name} must be one assistant message, not {len(ending)} messages.", field=name)
    asked = [turn.content.strip() for turn in ending if turn.role == "user"]
    known = prompt.strip() in asked if isinstance(prompt, str) else ending[: len(beginning)] == beginning
    if not known:
        what = "a user message" if isinstance(prompt, str) else "the beginning"
        raise InvalidInput(f"prompt is not {what} of the conversation in {name}.", field="prompt")
    return ending


def with_system(turns: list[Turn], system: Any) -> list[Turn]:
    """The conversation with `system`, a separate column, before it, unless it has the same one already."""
    if not isinstance(system, str) or Turn("system", system) in turns:
        return turns
    return [Turn("system", system), *turns]


def checked(turns: Sequence[Turn], name: str) -> tuple[Turn, ...]:
    """The conversation in its shape, if its texts can be stored and its reply is not empty."""
    if not turns or turns[-1].role != "assistant":
        raise InvalidInput(f"{name} must end with an assistant message.", field=name)
    *before, reply = turns
    if not reply.content:
        raise InvalidInput(f"{name} is empty.", field=name)
    try:
        prompt = shaped(before)
    except InvalidInput as error:
        error.field = "prompt"
        raise
    for turn in turns:
        check_text(turn.content, f"{turn.role} message")
    return (*prompt, reply)


def _turn(message: Any, name: str) -> Turn:
    if not isinstance(message, Mapping):
        raise InvalidInput(f"{name} must be a message, not {kind_of(message)}.", field=name)
    # In Parquet and Arrow every message has the keys of all messages, null where it lacks one.
    content = message.get("content")
    known = known_role(message.get("role") or message.get("from"), f"{name}.role")
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
