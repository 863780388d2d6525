"""Requests to the OpenAI-compatible API as programs send them: read, refused by name, or named."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import http_loop
from tests.support.live_server import LiveServer
from tests.support.odd_conversations import messages

NULLS = (
    *("stream", "temperature", "top_p", "n", "stop", "seed", "tools", "tool_choice", "functions"),
    *("function_call", "stream_options", "response_format", "logit_bias", "logprobs", "top_logprobs", "user"),
    *("metadata", "max_completion_tokens", "frequency_penalty", "presence_penalty", "store", "service_tier"),
    "safety_identifier",
)
ASKED = messages("user:Hi")
PARTS = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "hi."}],
    },
    {"role": "assistant", "content": [{"type": "output_text", "text": "Hi.", "annotations": []}]},
    {"role": "user", "content": [{"type": "input_text", "text": "Again."}]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    {"role": "user", "content": "Please."},
]
SAMPLES = Path(__file__).parents[1] / "fixtures" / "requests"


def sample(name: str) -> dict[str, Any]:
    asked: dict[str, Any] = json.loads((SAMPLES / f"v1_{name}.json").read_text())
    return asked


REFUSAL = {"role": "assistant", "refusal": "No.", "content": None}
# What the model reads before its reply.
READ: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nulls": ({"messages": [{**ASKED[0], "name": None, "tool_calls": None}], **dict.fromkeys(NULLS)}, ["Hi"]),
    "null inside": ({"messages": ASKED, "stream_options": {"include_usage": None}}, ["Hi"]),
    "null metadata": ({"messages": ASKED, "metadata": {"user_id": None, "a": "b"}}, ["Hi"]),
    "more tokens than any model has": ({"messages": ASKED, "max_completion_tokens": 10**30}, ["Hi"]),
    "two systems": ({"messages": messages("system:A;system:B;user:Hi")}, ["A\n\nB", "Hi"]),
    "a greeting": ({"messages": messages("assistant:Hello!;user:Hi")}, ["Hello!", "Hi"]),
    "an empty reply": ({"messages": messages("user:A;assistant:;user:B")}, ["A", "", "B"]),
    "parts": ({"messages": PARTS}, ["Say hi.", "Hi.", "Again.", "No.", "Please."]),
    "sample: nulls": (sample("nulls"), ["Say hi."]),
    "sample: parts": (sample("parts"), ["Say hi.", "Hi.", "Again."]),
    "sample: two systems": (sample("two_systems"), ["Be brief.\n\nBe kind.", "Name a hat."]),
    "sample: a greeting": (sample("greeting_first"), ["Hello, how can I help?", "Name a hat."]),
    "sample: an empty reply": (sample("empty_assistant"), ["A", "", "B"]),
    "a refusal": ({"messages": [*ASKED, REFUSAL, *messages("user:Please.")]}, ["Hi", "No.", "Please."]),
}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
NO_TOOLS = "tool messages are not supported; send the texts of user and assistant alone"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "fewer than no tokens": ({"max_tokens": -1}, "max_tokens is -1; it must be at least 1"),
    "sample: fewer than no tokens": (sample("minus_one"), "max_tokens is -1; it must be at least 1"),
    "sample: metadata that is no text": (sample("metadata_number"), "metadata.user_id"),
    "metadata that is no text": ({"metadata": {"user_id": 4711}}, "metadata.user_id"),
    "a call of a tool": (
        {"messages": [*ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}, *ASKED]},
        "messages.1: tool messages (tool_calls) are not supported",
    ),
    "a tool's answer": (
        {"messages": [*ASKED, {"role": "tool", "content": "4", "tool_call_id": "c"}, *ASKED]},
        NO_TOOLS,
    ),
    "a function's answer": ({"messages": [*ASKED, {"role": "function", "content": "4"}, *ASKED]}, NO_TOOLS),
    "no content": (
        {"messages": [*ASKED, {"role": "assistant", "content": None}, *ASKED]},
        "messages.1.content",
    ),
    "no parts": ({"messages": [{"role": "user", "content": []}]}, "it has no parts"),
    "a choice of texts": ({"guided_choice": ["a", "b"]}, "guided_choice is not supported"),
}


@pytest.fixture(scope="module")
def rest(shared_server: LiveServer) -> Iterator[httpx.Client]:
    with shared_server.client("user", "app") as client:
        yield client


def complete(rest: httpx.Client, **asked: Any) -> httpx.Response:
    body = {"model": "deployed", "messages": ASKED, "max_tokens": 2, **asked}
    return rest.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize(("asked", "read"), READ.values(), ids=READ)
def test_what_programs_send_is_read(rest: httpx.Client, asked: dict[str, Any], read: list[str]) -> None:
    answer = complete(rest, **asked)
    http_loop.checked(answer)
    assert "X-Thumbloop-Warning" not in answer.headers
    chat = http_loop.checked(rest.get(f"/api/v1/chats/{answer.headers['X-Thumbloop-Chat']}"))
    system = [chat["system_prompt"]] if chat["system_prompt"] else []
    assert system + [message["content"] for message in chat["messages"][:-1]] == read


@pytest.mark.parametrize(("asked", "why"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_read_wrongly_is_refused_by_name(
    rest: httpx.Client, asked: dict[str, Any], why: str
) -> None:
    answer = complete(rest, **asked)
    assert (answer.status_code, why in answer.json()["error"]["message"]) == (400, True), answer.text


def test_fields_without_effect_are_named_in_a_header(rest: httpx.Client) -> None:
    named = {
        "messages": [{**ASKED[0], "name": "Ann"}],
        "verbosity": "low",
        "reasoning_effort": "high",
        "x\r\ny": 1,
    }
    for stream in (False, True):
        answer = complete(rest, **named, stream=stream, service_tier="auto", parallel_tool_calls=False)
        assert answer.status_code == 200
        expected = "without effect: verbosity, reasoning_effort, x??y, messages.name"
        assert answer.headers["X-Thumbloop-Warning"] == expected
    many = complete(rest, **{f"field_{number}": number for number in range(30)})
    assert many.headers["X-Thumbloop-Warning"].endswith(" field_19 and 10 more")


# As Open WebUI's server sends them: what it is asked for in a chat, with the settings of a model and the
# headers that it forwards; and the tasks that it gives the model by itself, for titles and tags.
OPEN_WEBUI_HEADERS = {
    "HTTP-Referer": "https://openwebui.com/",
    "X-Title": "Open WebUI",
    "X-OpenWebUI-User-Name": "Ann",
    "X-OpenWebUI-User-Id": "5c1d7f0e-93f6-4f0e-9d0e-0d6d3f1f9a11",
    "X-OpenWebUI-User-Email": "ann@example.org",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "0b0a6f1c-4a55-4b6d-8a7f-0d4bb6f7f001",
}
OPEN_WEBUI: dict[str, dict[str, Any]] = {
    "a chat": {
        "stream": True,
        "model": "deployed",
        "messages": messages("system:Be brief.;user:Hi;assistant:Hello!;user:Again."),
        "stream_options": {"include_usage": True},
    },
    "with the settings of a model": {
        "stream": True,
        "model": "deployed",
        "messages": ASKED,
        "temperature": 0.8,
        "top_p": 0.9,
        "max_tokens": 4,
        "seed": 7,
        "stop": ["###"],
        "frequency_penalty": 0,
        "presence_penalty": 0,
    },
    "text beside a file that was taken out": {
        "stream": True,
        "model": "deployed",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    },
    "a title": {
        "model": "deployed",
        "messages": messages("user:### Task\nGenerate a title. JSON format"),
        "stream": False,
        "max_completion_tokens": 1000,
    },
    "tags": {"model": "deployed", "messages": messages("user:### Task\nGenerate tags."), "stream": False},
}


@pytest.mark.parametrize("asked", OPEN_WEBUI.values(), ids=OPEN_WEBUI)
def test_requests_as_open_webui_sends_them(rest: httpx.Client, asked: dict[str, Any]) -> None:
    listed = http_loop.checked(rest.get("/v1/models", headers=OPEN_WEBUI_HEADERS))
    assert "deployed" in [model["id"] for model in listed["data"]]
    body = {"max_tokens": 8, **asked}
    if "max_completion_tokens" in asked:
        del body["max_tokens"]
    answer = rest.post("/v1/chat/completions", json=body, headers=OPEN_WEBUI_HEADERS)
    assert answer.status_code == 200, answer.text
    assert "X-Thumbloop-Warning" not in answer.headers
    if not asked["stream"]:
        completion = answer.json()["id"]
    else:
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        assert lines[-1] == "[DONE]"
        chunks = [json.loads(line) for line in lines[:-1]]
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert ("usage" in chunks[-1]) == ("stream_options" in asked)
        completion = chunks[0]["id"]
    http_loop.vote(rest, completion, False)


def test_null_means_left_out_in_the_rest_api(rest: httpx.Client) -> None:
    body = {"title": None, "system_prompt": None, "consent": None}
    chat = http_loop.checked(rest.post("/api/v1/chats", json=body))
    send = {
        "content": "Hi",
        "temperature": None,
        "seed": None,
        "stop": None,
        "parent_id": None,
        "edits": None,
    }
    path = f"/api/v1/chats/{chat['id']}/messages?stream=false"
    reply = http_loop.checked(rest.post(path, json=send))
    vote = {"label": True, "tags": None, "comment": None, "correction": None}
    assert http_loop.checked(rest.put(f"/api/v1/messages/{reply['id']}/vote", json=vote))["label"] is True
    without = rest.put(f"/api/v1/messages/{reply['id']}/vote", json={"label": None})
    assert "label must be true or false, not null" in without.json()["error"]["message"]
    misspelt = rest.post(path, json={"content": "Hi", "parent": None})
    assert misspelt.json()["error"]["code"] == "unknown_field"
