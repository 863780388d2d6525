"""The OpenAI-compatible API, through the `openai` client as it is installed."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.integration import loop
from tests.live_server import LiveServer


@pytest.fixture(scope="module")
def rest(shared_server: LiveServer) -> Iterator[httpx.Client]:
    with shared_server.client("user", "app") as client:
        yield client


@pytest.fixture(scope="module")
def client(shared_server: LiveServer) -> Iterator[openai.OpenAI]:
    base_url = f"{shared_server.url}/v1"
    with openai.OpenAI(base_url=base_url, api_key=shared_server.token("user", "app")) as client:
        yield client


def ask(client: openai.OpenAI, *messages: tuple[str, Any], **options: Any) -> Any:
    turns = [{"role": role, "content": content} for role, content in messages or [("user", "Hello")]]
    return client.chat.completions.create(model="deployed", messages=turns, **options)  # type: ignore[call-overload]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["deployed", "v1"]
    assert client.models.retrieve("v1").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("v2")


def test_a_completion_can_be_voted_on_by_its_id(client: openai.OpenAI, rest: httpx.Client) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="v1", messages=[{"role": "user", "content": "Hello"}], max_tokens=5
    )
    assert raw.headers["x-thumbloop-model-version"] == "v1"
    completion = raw.parse()
    (choice,) = completion.choices
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length")
    assert completion.model == "v1"
    assert completion.usage is not None
    assert completion.usage.prompt_tokens > 0
    assert 0 < completion.usage.completion_tokens <= 5
    assert completion.usage.total_tokens == (
        completion.usage.prompt_tokens + completion.usage.completion_tokens
    )
    vote = loop.vote(rest, completion.id, True)
    assert (vote["message_id"], vote["revision"]) == (completion.id, 1)


def test_a_stream_gives_the_same_reply_and_its_usage(client: openai.OpenAI) -> None:
    options = {"seed": 3, "temperature": 1.2, "top_p": 0.95, "max_completion_tokens": 12}
    whole = ask(client, **options)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, **options))
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    (finish,) = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert finish == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in list(ask(client, stream=True, **options)))


def test_the_length_and_the_stop_text_end_a_reply(client: openai.OpenAI) -> None:
    sure = {"seed": 11, "temperature": 1.0}
    text = ask(client, max_tokens=20, **sure).choices[0].message.content
    short = ask(client, max_tokens=1, **sure).choices[0]
    assert short.finish_reason == "length"
    assert text.startswith(short.message.content.rstrip("\ufffd"))
    stop = next(letter for letter in text[1:] if letter.strip() and letter.isascii())
    stopped = ask(client, max_tokens=20, stop=stop, **sure).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == text.partition(stop)[0]


def test_earlier_turns_are_kept_but_are_nobodys_to_vote_on(client: openai.OpenAI, rest: httpx.Client) -> None:
    completion = ask(
        client,
        ("system", "Be kind."),
        ("user", [{"type": "text", "text": "Hello"}, {"type": "text", "text": " there"}]),
        ("assistant", "I was never said here."),
        ("user", "One more"),
        ("user", "thing"),
    )
    newest = loop.checked(rest.get("/api/v1/chats", params={"limit": 1}))["items"][0]
    assert (newest["system_prompt"], newest["source"]) == ("Be kind.", "openai")
    chat = loop.checked(rest.get(f"/api/v1/chats/{newest['id']}"))
    assert [message["content"] for message in chat["messages"][:3]] == [
        "Hello there",
        "I was never said here.",
        "One more\n\nthing",
    ]
    assert chat["messages"][-1]["id"] == completion.id
    forged = rest.put(f"/api/v1/messages/{chat['messages'][1]['id']}/vote", json={"label": True})
    assert forged.status_code == 422
    assert forged.json()["error"]["code"] == "not_our_reply"


def test_an_unknown_model_is_named_in_openais_shape(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.code == "model_not_found"
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param == "model"
    assert "'gpt-9'" in caught.value.message
    assert "deployed" in caught.value.message


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n is 2"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"logprobs": True}, "logprobs"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_done_is_refused(client: openai.OpenAI, options: dict[str, Any], word: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **options)
    assert word in caught.value.message


def test_what_changes_nothing_is_taken(client: openai.OpenAI) -> None:
    ask(client, max_tokens=1, n=1, presence_penalty=0, tools=[], user="me", metadata={"a": "b"}, store=False)


def test_messages_that_make_no_sense_are_refused_and_leave_no_chat(
    client: openai.OpenAI, rest: httpx.Client
) -> None:
    before = loop.checked(rest.get("/api/v1/chats"))["items"]
    cases: list[tuple[list[tuple[str, Any]], str]] = [
        ([("user", "Hi"), ("assistant", "Hello")], "last message"),
        ([("system", "Be kind.")], "last message"),
        ([("user", "  ")], "empty"),
        ([("user", "nul \x00")], "NUL"),
        ([("tool", "42")], "role"),
        ([("user", [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}])], "type text"),
    ]
    for messages, word in cases:
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, *messages)
        assert word in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, ("user", "word " * 3000))
    assert caught.value.code == "context_length_exceeded"
    assert loop.checked(rest.get("/api/v1/chats"))["items"] == before


def test_a_wrong_key_is_an_authentication_error(shared_server: LiveServer) -> None:
    stranger = openai.OpenAI(base_url=f"{shared_server.url}/v1", api_key="tl_wrong")
    with pytest.raises(openai.AuthenticationError, match="thumbloop token create"):
        ask(stranger)
