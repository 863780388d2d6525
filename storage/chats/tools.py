"""Tools in a conversation: what a program declared, the model called, and the tools returned. Pure.

Everywhere in Thumbloop a conversation is a list of roles and texts. So a message that is more than a text is
kept as JSON under a role of its own, and is written out as other programs read it where it leaves: for a chat
template, and in exports.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

DECLARED, CALL, RESULT = "tools", "tool_call", "tool"
TOOL_ROLES = frozenset((DECLARED, CALL, RESULT))
KEPT = ("type", "id", "tool_call_id", "name")
# Other names of the roles of calls and results.
CALLS = ("function_call", "tool_call")
RESULTS = ("tool", "function", "observation", "tool_response", "ipython")


def declared(given: Any) -> str | None:
    """The tools of a conversation as one text, or None if there are none; raises ValueError."""
    tools = _parsed(given)
    tools = [tools] if isinstance(tools, Mapping) else tools
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ValueError("it must be a list of JSON objects, one for each tool")
    tools = [
        _full(tool) if tool.get("function") else {"type": "function", "function": _full(tool)}
        for tool in tools
    ]
    if not all(isinstance(tool["function"], Mapping) and tool["function"].get("name") for tool in tools):
        raise ValueError("each tool must be a function with a name")
    return _text(tools) if tools else None


def called(given: Any, content: str = "") -> str:
    """A message that calls tools, as text; raises ValueError."""
    calls = _parsed(given)
    calls = [calls] if isinstance(calls, Mapping) else calls
    if not isinstance(calls, list) or not calls or not all(isinstance(call, Mapping) for call in calls):
        raise ValueError("it must be a list of JSON objects, one for each call")
    return _text({"content": content, "tool_calls": [_call(call) for call in calls]})


def returned(content: str, message: Mapping[str, Any]) -> str:
    """What a tool returned, as text, with the tool's name and the id of its call, where they are known."""
    names = {name: str(message.get(name) or "") for name in ("name", "tool_call_id")}
    return _text({"content": content, **names})


def written_out(messages: Sequence[Mapping[str, str]]) -> tuple[list[dict[str, Any]], list[Any]]:
    """The messages as chat templates and other programs read them, and the tools."""
    tools: list[Any] = []
    found: list[dict[str, Any]] = []
    for message in messages:
        role = message["role"]
        if role == DECLARED:
            tools = json.loads(message["content"])
        elif role in TOOL_ROLES:
            speaker = "assistant" if role == CALL else RESULT
            found.append({"role": speaker, **json.loads(message["content"])})
        else:
            found.append(dict(message))
    return found, tools


def for_template(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages that were written out, as templates want them: arguments as objects, nothing empty."""
    found = []
    for message in messages:
        kept = {name: value for name, value in message.items() if value or name in ("role", "content")}
        if "tool_calls" in kept:
            kept["tool_calls"] = [
                call | {"function": call["function"] | {"arguments": _parsed(call["function"]["arguments"])}}
                for call in kept["tool_calls"]
            ]
        found.append(kept)
    return found


def mapped(text: str, change: Callable[[str], str]) -> str:
    """The content of a message of TOOL_ROLES with every text in it changed, but for names and ids."""

    def one(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: one(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [one(inner) for inner in value]
        if key == "arguments" and isinstance(value, str):
            return _mapped_json(value, change)
        return change(value) if isinstance(value, str) and key not in KEPT else value

    return _text(one(json.loads(text)))


def _mapped_json(text: str, change: Callable[[str], str]) -> str:
    try:
        return mapped(text, change)
    except ValueError:
        return change(text)


def has_tools(messages: Sequence[Mapping[str, str]]) -> bool:
    return any(message["role"] in TOOL_ROLES for message in messages)


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or call
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise ValueError("each call must name its function")
    arguments = function.get("arguments", function.get("parameters"))
    arguments = arguments if isinstance(arguments, str) else _text(_full(arguments or {}))
    function = {"name": name, "arguments": arguments}
    return {"id": str(call.get("id") or ""), "type": "function", "function": function}


def _full(value: Any) -> Any:
    """The value without the nulls that tables put where a record lacks a key that another has."""
    if isinstance(value, Mapping):
        return {name: _full(inner) for name, inner in value.items() if inner is not None}
    return [_full(inner) for inner in value] if isinstance(value, list) else value


def _parsed(value: Any) -> Any:
    """The value of a JSON text, or the value; raises ValueError."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is no JSON that can be read") from error


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
