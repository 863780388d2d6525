"""Tools as texts: whatever way a program wrote them, they say the same."""

import json
from typing import Any

import pytest

from storage.chats.tools import called, declared, for_template, mapped, returned, written_out
from tests.support.imported import convert, reason, row
from tests.support.tool_calls import (
    ASKED,
    CALL,
    CALLING,
    LLAMA_FACTORY,
    OPENAI,
    PAIR,
    REPLY,
    RESULT,
    TRL,
    WEATHER,
)


def test_every_way_to_write_tools_says_the_same() -> None:
    messages = [turn.message for turn in row(OPENAI).turns]
    found, tools = written_out(messages)
    assert tools == [WEATHER]
    assert [message["role"] for message in found] == ["user", "assistant", "tool", "assistant"]
    assert found[1]["tool_calls"] == [CALL]
    assert found[2] == RESULT | {"name": ""}
    for record in (LLAMA_FACTORY, TRL[0]):
        other, tools = written_out([turn.message for turn in row(record).turns])
        assert tools == [WEATHER]
        assert other[-3]["tool_calls"][0]["function"] == CALL["function"]
        assert [other[-2]["content"], other[-1]] == [RESULT["content"], REPLY]
    up, down = convert(PAIR)
    assert up.turns[:-1] == down.turns[:-1] == row(OPENAI).turns[:-1]  # type: ignore[union-attr]


def test_a_template_gets_objects_and_nothing_that_is_empty() -> None:
    messages, _ = written_out(
        [{"role": "tool_call", "content": called([CALL])}, {"role": "tool", "content": returned("", {})}]
    )
    calling, result = for_template(messages)
    assert calling["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo"}
    assert result == {"role": "tool", "content": ""}


def test_texts_in_tools_are_changed_one_by_one() -> None:
    text = called([CALL], content="Oslo")
    changed = json.loads(mapped(text, str.upper))
    assert changed["content"] == "OSLO"
    assert json.loads(changed["tool_calls"][0]["function"]["arguments"]) == {"city": "OSLO"}
    assert (changed["tool_calls"][0]["id"], changed["tool_calls"][0]["function"]["name"]) == ("c1", "weather")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tools": "a hammer"}, "tools cannot be imported"),
        ({"tools": ["a hammer"]}, "must be a list of JSON objects"),
        ({"tools": [{"type": "function"}]}, "function with a name; or say leave_out=tools"),
        (
            {"messages": [ASKED, CALLING | {"tool_calls": [{"id": "c"}]}, RESULT, REPLY]},
            "messages.1 cannot be imported as tool",
        ),
        (
            {"messages": [ASKED, CALLING]},
            "messages ends with a call of tools; only a reply in words is rated",
        ),
        ({"messages": [ASKED, CALLING, RESULT]}, "messages must end with an assistant message"),
        ({"messages": [ASKED, RESULT | {"content": {"c": 4}}, REPLY]}, "must be text"),
    ],
)
def test_tools_that_cannot_be_read_are_refused_by_name(change: dict[str, Any], why: str) -> None:
    assert why in reason(OPENAI | change)


def test_no_tools_are_none() -> None:
    assert [declared(nothing) for nothing in ([], "[]")] == [None, None]
