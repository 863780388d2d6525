"""Conversations that applications keep as trees: each message names its parent."""

from collections.abc import Mapping
from typing import Any

from storage.errors import InvalidInput
from storage.imports.rows.cells import shown

ROOTS = (None, "", "00000000-0000-0000-0000-000000000000")


def path_to(messages: Mapping[str, Any], message_id: Any, where: str, parent: str = "parentId") -> list[Any]:
    """The messages from the first to this one; `where` names the tree in messages. Raises InvalidInput."""
    path: list[Any] = []
    step = message_id
    while step not in ROOTS:
        message = messages.get(step) if isinstance(step, str) else None
        if not isinstance(message, Mapping):
            raise InvalidInput(f"{where} lacks the message {shown(step)}.", field=where)
        if len(path) > len(messages):
            raise InvalidInput(f"{where}: a message is its own ancestor.", field=where)
        path.append(message)
        step = message.get(parent)
    return path[::-1]


def by_id(messages: list[Any], key: str = "id") -> dict[str, Any]:
    return {str(message.get(key)): message for message in messages if isinstance(message, Mapping)}
