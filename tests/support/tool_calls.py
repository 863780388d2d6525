"""Rated conversations with tools, as different programs write them."""

import json
from typing import Any

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASKED = {"role": "user", "content": "Is it cold in Oslo?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
AS_OBJECT = CALL | {"function": {"name": "weather", "arguments": {"city": "Oslo", "day": None}}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "4 degrees"}
REPLY = {"role": "assistant", "content": "Yes, 4 degrees."}
OPENAI: dict[str, Any] = {"messages": [ASKED, CALLING, RESULT, REPLY], "tools": [WEATHER], "label": True}
# Two of TRL's rows: the arguments are an object, and the tools may be a text.
TRL: list[dict[str, Any]] = [
    {
        "prompt": [
            {"role": "system", "content": "Be brief."},
            ASKED,
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [AS_OBJECT],
            },
            RESULT | {"name": "weather"},
        ],
        "completion": [REPLY],
        "label": True,
        "tools": json.dumps([WEATHER]),
    },
    {"prompt": [ASKED], "completion": [REPLY | {"content": "No."}], "label": False, "tools": [WEATHER]},
]
PAIR: dict[str, Any] = {
    "input": {"messages": [ASKED, CALLING, RESULT], "tools": [WEATHER], "parallel_tool_calls": True},
    "preferred_output": [REPLY],
    "non_preferred_output": [REPLY | {"content": "Perhaps."}],
}
LLAMA_FACTORY: dict[str, Any] = {
    "conversations": [
        {"from": "human", "value": ASKED["content"]},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
        {"from": "observation", "value": "4 degrees"},
        {"from": "gpt", "value": REPLY["content"]},
    ],
    "tools": json.dumps([WEATHER["function"]]),
    "kto_tag": True,
}
PLAIN: dict[str, Any] = {"prompt": "And in Rome?", "completion": "No.", "label": False}
ROWS = [OPENAI, *TRL, LLAMA_FACTORY, PLAIN]
