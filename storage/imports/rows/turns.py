"""Conversations from the messages of a record, and the checks that all formats share.

Every function raises InvalidInput with a reason that names the column and the value.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from storage.chats.chats import check_text
from storage.chats.conversation import (
    THOUGHT_KEYS,
    TOOLS,
    Turn,
    joined_parts,
    known_role,
    shaped,
    thought,
    without_reasoning,
)
from storage.chats.reasoning import written
from storage.chats.tools import CALL, DECLARED, RESULT, RESULTS, called, declared, returned
from storage.errors import InvalidInput
from storage.imports.files.records import kind_of
from storage.imports.rows.texts import messages_in

# What a message may hold besides its text: nothing that the model read, or handled by its format.
KNOWN_KEYS = "role from content value id num_tokens timestamp created_at model"
CALLING = ("tool_calls", "function_call")
MESSAGE = frozenset([*KNOWN_KEYS.split(), *THOUGHT_KEYS, *CALLING, "tool_call_id"])
MORE_THAN_TEXT = ("images", "image", "audio", "files")


def read_turns(value: Any, name: str, role: str, *, plain: bool = False) -> list[Turn]:
    """Turns from text (by `role`), a message or a list of them, with role and content or from and value.

    A text that holds a conversation is read as one, or refused (see `texts.py`), unless it is `plain`.
    """
    if isinstance(value, str):
        held = None if plain else messages_in(value, name, role)
        if held is None:
            return [Turn(role, value)]
        value = held
    messages = [value] if isinstance(value, Mapping) else value
    if not isinstance(messages, list):
        raise InvalidInput(f"{name} must be text or a list of messages, not {kind_of(value)}.", field=name)
    return [_turn(message, f"{name}.{at}") for at, message in enumerate(messages)]


def message_extras(value: Any) -> set[str]:
    """The keys of these messages that hold something which is not imported."""
    messages = [value] if isinstance(value, Mapping) else value if isinstance(value, list) else []
    return {
        str(key)[:80]
        for message in messages
        if isinstance(message, Mapping)
        for key, held in message.items()
        if key not in MESSAGE and held not in (None, "", [], {})
        if not (key == "name" and message.get("role") in RESULTS)
    }


def joined(beginning: list[Turn], ending: list[Turn], prompt: Any, name: str) -> list[Turn]:
    """The prompt and the reply as one conversation.

    The reply is one assistant message, or a conversation that ends with it. Then the prompt may be empty,
    the beginning of that conversation, or the text of one of its user messages.
    """
    if len(ending) == 1:
        return beginning + ending
    if all(turn.role == "assistant" for turn in ending):
        raise InvalidInput(f"{name} must be one assistant message, not {len(ending)} messages.", field=name)
    asked = [turn.content.strip() for turn in ending if turn.role == "user"]
    known = ending[: len(beginning)] == beginning or (
        isinstance(prompt, str) and (prompt.strip() in asked or all(text in prompt for text in asked))
    )
    if not known:
        what = "a user message" if isinstance(prompt, str) else "the beginning"
        raise InvalidInput(f"prompt is not {what} of the conversation in {name}.", field="prompt")
    return ending


def with_tools(turns: list[Turn], tools: Any, name: str) -> list[Turn]:
    """The conversation with the tools that its program declared, from a separate column."""
    try:
        text = declared(tools) if tools else None
    except ValueError as error:
        raise InvalidInput(
            f"{name} cannot be imported: {error}; or say leave_out={name}.", field=name
        ) from error
    return [Turn(DECLARED, text), *turns] if text else turns


def with_system(turns: list[Turn], system: Any) -> list[Turn]:
    """The conversation with `system`, a separate column, before it, unless it has the same one already."""
    if system is None or Turn("system", system) in turns:
        return turns
    if not isinstance(system, str):
        raise InvalidInput(f"system must be text, not {kind_of(system)}.", field="system")
    return [Turn("system", system), *turns]


def checked(turns: Sequence[Turn], name: str) -> tuple[Turn, ...]:
    """The conversation in its shape, if its texts can be stored and its reply is not empty."""
    if turns and turns[-1].role == CALL:
        raise InvalidInput(f"{name} ends with a call of tools; only a reply in words is rated.", field=name)
    if not turns or turns[-1].role != "assistant":
        raise InvalidInput(f"{name} must end with an assistant message.", field=name)
    *before, last = turns
    reply = without_reasoning(last)
    if not reply.content:
        what = "reasoning without a reply" if reply.reasoning else "empty"
        raise InvalidInput(f"{name} is {what}.", field=name)
    try:
        prompt = shaped(before)
    except InvalidInput as error:
        error.field = "prompt"
        raise
    for turn in turns:
        check_text(turn.content, f"{turn.role} message")
        check_text(turn.reasoning, "reasoning")
    return (*prompt, reply)


def _turn(message: Any, name: str) -> Turn:
    if not isinstance(message, Mapping):
        raise InvalidInput(f"{name} must be a message, not {kind_of(message)}.", field=name)
    content = _content(message, name)
    for key in MORE_THAN_TEXT:
        if message.get(key):
            raise InvalidInput(f"{name} has {key}, which cannot be imported.", field=f"{name}.{key}")
    role = message.get("role") or message.get("from")
    if role in TOOLS or any(message.get(key) for key in CALLING):
        return _tool_turn(message, role, name)
    known = known_role(role, f"{name}.role")
    reasoning = thought(message) if known == "assistant" else ""
    if content is None and reasoning:
        content = ""  # the reply was cut off before it began
    return Turn(known, _text(content, f"{name}.content"), reasoning)


def _tool_turn(message: Mapping[str, Any], role: Any, name: str) -> Turn:
    """A message that calls tools, or what a tool returned."""
    content = _content(message, name)
    try:
        if role in RESULTS:
            return Turn(RESULT, returned(_text(content, f"{name}.content"), message))
        key = next((key for key in CALLING if message.get(key)), None)
        if key is None:
            return Turn(CALL, called(content))  # LLaMA-Factory and ms-swift: the text is the call
        said = _text(content, f"{name}.content") if content else ""
        return Turn(CALL, called(message[key], written(thought(message), said)))
    except ValueError as error:
        raise InvalidInput(f"{name} cannot be imported as tool messages: {error}.", field=name) from error


def _content(message: Mapping[str, Any], name: str) -> Any:
    """What stands under content or value; raises InvalidInput if both say something, and not the same."""
    # In Parquet and Arrow every message has the keys of all messages, empty where it lacks one.
    content, value = message.get("content"), message.get("value")
    if value is None or value == "" or content == value:
        return value if content is None else content
    if content is None or content == "":
        return value
    raise InvalidInput(f"{name} has both content and value, which differ; keep one.", field=name)


def _text(content: Any, name: str) -> str:
    try:
        text = joined_parts(content)
    except ValueError as error:
        raise InvalidInput(f"{name} cannot be imported: {error}.", field=name) from error
    if isinstance(text, str):
        return text
    raise InvalidInput(f"{name} must be text, not {kind_of(text)}.", field=name)
