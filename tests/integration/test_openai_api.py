"""The OpenAI-compatible API, through the `openai` client and LangChain as they are installed."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlmodel import select

from storage.db.database import open_database
from storage.db.tables import Table, Vote
from storage.people.users import set_role
from storage.registry.artifacts import Artifacts
from tests.support import http_loop
from tests.support.adapters import publish_adapter
from tests.support.live_server import LiveServer


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


def test_models_are_the_aliases_and_each_version_that_may_reply(
    client: openai.OpenAI, shared_server: LiveServer, tiny_model: Path
) -> None:
    settings = shared_server.settings
    with closing(open_database(settings)) as database:
        publish = partial(publish_adapter, database, Artifacts(settings.data_dir), tiny_model)
        ready, waiting = publish(state="ready"), publish(state="candidate", seed=2)
    assert [model.id for model in client.models.list()] == ["deployed", "base", ready.name, "v1"]
    assert client.models.retrieve(ready.name).object == "model"
    answers = {name: answer_of(client, name) for name in ("deployed", "base", "v1", ready.name)}
    assert {name: version for name, (version, _) in answers.items()} == {
        "deployed": "v1",
        "base": "v1",
        "v1": "v1",
        ready.name: ready.name,
    }
    assert answers["deployed"] == answers["base"] == answers["v1"]
    assert answers[ready.name][1] != answers["v1"][1]
    for name in (waiting.name, "v99"):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(name)
        with pytest.raises(openai.NotFoundError, match=f"'{name}' does not exist; use 'deployed'") as caught:
            answer_of(client, name)
        error = caught.value
        assert (error.code, error.type, error.param) == ("model_not_found", "invalid_request_error", "model")
    admin = client.with_options(api_key=shared_server.token("admin", "trying"))
    assert answer_of(admin, waiting.name)[0] == waiting.name, "an admin tries it before deciding"


def answer_of(client: openai.OpenAI, model: str) -> tuple[str, str]:
    """The version that replied and the reply, which is the same each time."""
    turns: Any = [{"role": "user", "content": "Hello"}]
    found = client.chat.completions.create(model=model, messages=turns, temperature=0, max_tokens=12)
    return found.model, found.choices[0].message.content or ""


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
    vote = http_loop.vote(rest, completion.id, True)
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
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.created for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in list(ask(client, stream=True, **options)))
    turns: Any = [{"role": "user", "content": "Hello"}]
    with client.chat.completions.with_streaming_response.create(
        model="deployed", messages=turns, stream=True, max_tokens=3
    ) as response:
        assert response.headers["x-thumbloop-model-version"] == "v1"
        assert response.headers["content-type"].startswith("text/event-stream")
        assert list(response.iter_lines())[-2:] == ["data: [DONE]", ""]


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
    among = ask(client, max_tokens=20, stop=["never said", stop], **sure).choices[0]
    assert among.message.content == stopped.message.content


def test_earlier_turns_are_kept_but_are_nobodys_to_vote_on(client: openai.OpenAI, rest: httpx.Client) -> None:
    completion = ask(
        client,
        ("system", "Be kind."),
        ("user", [{"type": "text", "text": "Hello"}, {"type": "text", "text": " there"}]),
        ("assistant", "I was never said here."),
        ("user", "One more"),
        ("user", "thing"),
    )
    newest = http_loop.checked(rest.get("/api/v1/chats", params={"limit": 1}))["items"][0]
    assert (newest["system_prompt"], newest["source"]) == ("Be kind.", "openai")
    chat = http_loop.checked(rest.get(f"/api/v1/chats/{newest['id']}"))
    assert [message["content"] for message in chat["messages"][:3]] == [
        "Hello there",
        "I was never said here.",
        "One more\n\nthing",
    ]
    assert chat["messages"][-1]["id"] == completion.id
    forged = rest.put(f"/api/v1/messages/{chat['messages'][1]['id']}/vote", json={"label": True})
    assert forged.status_code == 422
    assert forged.json()["error"]["code"] == "not_our_reply"


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "invalid_value"),
        ({"seed": 2**70}, "seed", "invalid_value"),
        ({"seed": "x"}, "seed", "invalid_value"),
        ({"stop": ["x"] * 17}, "stop", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"n": 2}, "n", "unsupported_value"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"frequency_penalty": 1}, "frequency_penalty", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"extra_body": {"top_k": 5}}, "top_k", "unsupported_parameter"),
        ({"user": "u" * 513}, "user", "invalid_value"),
        ({"metadata": {"user_id": 4}}, "metadata.user_id", "invalid_type"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_done_is_refused(
    client: openai.OpenAI, options: dict[str, Any], param: str, code: str
) -> None:
    turns = [{"role": "user", "content": "Hello"}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**({"model": "deployed", "messages": turns} | options))
    body: Any = caught.value.body
    assert set(body) == {"message", "type", "param", "code"}
    assert (body["type"], body["param"], body["code"]) == ("invalid_request_error", param, code)
    assert param.partition("[")[0].split(".")[0] in body["message"]


def test_what_changes_nothing_is_taken(client: openai.OpenAI) -> None:
    taken: list[dict[str, Any]] = [
        {"n": 1, "presence_penalty": 0, "tools": [], "tool_choice": "auto", "store": False},
        {"metadata": {"a": "b"}, "service_tier": "auto", "prediction": None, "verbosity": "low"},
        {"extra_body": {"top_k": -1, "nobody": "knows"}, "user": "", "parallel_tool_calls": True},
    ]
    for options in taken:
        [choice] = ask(client, max_tokens=1, **options).choices
        assert choice.finish_reason == "length"


def test_an_applications_users_are_people_of_their_own(
    client: openai.OpenAI, rest: httpx.Client, shared_server: LiveServer
) -> None:
    requests = [{"user": "ann@example.com"}, {"safety_identifier": "ann@example.com"}, {"user": "bob"}, {}]
    replies = [ask(client, max_tokens=2, **options).id for options in requests]
    replies.append(ask(client, max_tokens=2, metadata={"user_id": "bob"}).id)
    for reply in replies:
        assert http_loop.vote(rest, reply, True)["revision"] == 1
    assert http_loop.checked(rest.get(f"/api/v1/messages/{replies[0]}/vote"))["label"] is True
    with closing(open_database(shared_server.settings)) as database, database.read() as session:
        voters = [session.exec(select(Vote.user_id).where(Vote.message_id == one)).one() for one in replies]
    me = http_loop.checked(rest.get("/api/v1/me"))["id"]
    assert voters[0] == voters[1]
    assert voters[2] == voters[4]
    assert voters[3] == me
    assert len({voters[0], voters[2], me}) == 3
    with shared_server.client("user", "eve") as eve:
        for reply in (replies[0], replies[3]):
            assert eve.put(f"/api/v1/messages/{reply}/vote", json={"label": False}).status_code == 403
        assert eve.post("/api/v1/end-users/erase", json={"user": "bob"}).status_code == 404
    erased = http_loop.checked(rest.post("/api/v1/end-users/erase", json={"user": "ann@example.com"}))
    assert (erased["chats"], erased["votes"]) == (2, 2)
    assert rest.get(f"/api/v1/messages/{replies[0]}/vote").status_code == 404
    assert http_loop.checked(rest.get(f"/api/v1/messages/{replies[2]}/vote"))["label"] is True
    assert rest.post("/api/v1/end-users/erase", json={"user": "ann@example.com"}).status_code == 404
    files = [path for path in shared_server.settings.data_dir.rglob("*") if path.is_file()]
    assert not [path for path in [*files, shared_server.log] if b"ann@example" in path.read_bytes()]


def test_no_consent_by_request_and_later_by_the_application(
    client: openai.OpenAI, rest: httpx.Client, shared_server: LiveServer
) -> None:
    requests: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"store": True}, True),
        ({"store": False}, False),
        ({"metadata": {"consent": "false"}}, False),
        ({"metadata": {"consent": "true"}}, True),
        ({"store": False, "metadata": {"consent": "true"}}, False),
    ]
    question = {"model": "deployed", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    for options, expected in requests:
        for stream in (False, True):
            answer = rest.post("/v1/chat/completions", json={**question, **options, "stream": stream})
            chat = rest.get(f"/api/v1/chats/{answer.headers['x-thumbloop-chat']}").json()
            assert chat["consent"] is expected, options
    answer = rest.post("/v1/chat/completions", json={**question, "metadata": {"consent": "no"}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "metadata.consent")

    of_user = rest.post("/v1/chat/completions", json={**question, "user": "carl"})
    path = f"/api/v1/chats/{of_user.headers['x-thumbloop-chat']}"
    with shared_server.client("user", "eve") as eve, shared_server.client("admin", "root") as root:
        for other in (eve, root):
            assert other.patch(path, json={"consent": False}).status_code == 403
            assert other.delete(path).status_code == 403
    assert http_loop.checked(rest.patch(path, json={"consent": False}))["consent"] is False
    assert rest.delete(path).status_code == 204
    assert rest.delete(path).status_code == 404


def test_no_name_outlives_an_erasure(shared_server: LiveServer, tiny_model: Path) -> None:
    with closing(open_database(shared_server.settings)) as database:
        artifacts = Artifacts(shared_server.settings.data_dir)
        version = publish_adapter(database, artifacts, tiny_model, seed=3).name
    with shared_server.client("admin", "CarolXQZ") as carol, shared_server.client("admin", "root") as root:
        me = http_loop.checked(carol.get("/api/v1/me"))["id"]
        chat = http_loop.checked(carol.post("/api/v1/chats", json={}))["id"]
        carol.patch(f"/api/v1/chats/{chat}", json={"consent": False})
        http_loop.checked(carol.post(f"/api/v1/model-versions/{version}/canary", json={"share": 0.5}))
        for path in ("canary/end", f"model-versions/{version}/deploy", "rollback", "training-runs"):
            http_loop.checked(carol.post(f"/api/v1/{path}"))
        carol.get("/api/v1/export")
        carol.put(f"/api/v1/users/{me}/quarantine", json={"quarantined": True})
        with closing(open_database(shared_server.settings)) as database, database.write() as session:
            set_role(session, me, "user")
        assert root.delete(f"/api/v1/users/{me}/data").status_code == 200
    with closing(open_database(shared_server.settings)) as database, database.read() as session:
        for table in Table.metadata.sorted_tables:
            assert "CarolXQZ" not in str(session.execute(sa.select(table)).all()), table.name


def test_a_browsers_session_speaks_for_itself_alone(shared_server: LiveServer) -> None:
    with shared_server.visit(follow_redirects=True) as browser:
        assert browser.get("/").status_code == 200
        turns = [{"role": "user", "content": "Hello"}]
        body = {"model": "deployed", "messages": turns, "max_tokens": 1, "user": "somebody else"}
        reply = http_loop.checked(browser.post("/v1/chat/completions", json=body))
        assert http_loop.vote(browser, reply["id"], True)["revision"] == 1
        me = http_loop.checked(browser.get("/api/v1/me"))["id"]
    with closing(open_database(shared_server.settings)) as database, database.read() as session:
        assert session.exec(select(Vote.user_id).where(Vote.message_id == reply["id"])).one() == me


def test_messages_that_make_no_sense_are_refused_and_leave_no_chat(
    client: openai.OpenAI, rest: httpx.Client
) -> None:
    before = http_loop.checked(rest.get("/api/v1/chats"))["items"]
    cases: list[tuple[list[tuple[str, Any]], str]] = [
        ([("user", "Hi"), ("assistant", "Hello")], "last message"),
        ([("system", "Be kind.")], "last message"),
        ([("user", "  ")], "empty"),
        ([("user", "nul \x00")], "NUL"),
        ([("tool", "42")], "tool messages are not supported"),
        ([("narrator", "42")], "role"),
        ([("user", [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}])], "type 'image_url'"),
    ]
    for messages, word in cases:
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, *messages)
        assert word in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, ("user", "word " * 3000))
    assert caught.value.code == "context_length_exceeded"
    assert http_loop.checked(rest.get("/api/v1/chats"))["items"] == before


def test_a_wrong_key_is_an_authentication_error(shared_server: LiveServer) -> None:
    stranger = openai.OpenAI(base_url=f"{shared_server.url}/v1", api_key="tl_wrong")
    with pytest.raises(openai.AuthenticationError, match="thumbloop token create") as caught:
        ask(stranger)
    assert (caught.value.code, caught.value.type) == ("invalid_api_key", "invalid_request_error")


def test_langchain_talks_and_streams(shared_server: LiveServer, rest: httpx.Client) -> None:
    # Seconds of importing, which other test processes need not wait for.
    from langchain_core.messages import HumanMessage, SystemMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        base_url=f"{shared_server.url}/v1",
        api_key=SecretStr(shared_server.token("user", "app")),
        model="deployed",
        temperature=1.0,
        seed=5,
        max_completion_tokens=12,
        stream_usage=True,
    )
    turns = [SystemMessage("Be kind."), HumanMessage("Hello")]
    whole = model.invoke(turns, user="carl", stop=["never said"])
    assert isinstance(whole.content, str)
    assert whole.response_metadata["model_name"] == "v1"
    assert whole.usage_metadata is not None
    assert 0 < whole.usage_metadata["output_tokens"] <= 12
    merged = None
    for chunk in model.stream(turns, user="carl"):
        merged = chunk if merged is None else merged + chunk
    assert merged is not None
    assert merged.content == whole.content
    assert merged.usage_metadata == whole.usage_metadata
    assert merged.response_metadata["finish_reason"] in ("stop", "length")
    completion = whole.response_metadata["id"]
    assert http_loop.vote(rest, completion, False)["revision"] == 1


def test_the_responses_api_talks_streams_and_is_voted_on(client: openai.OpenAI, rest: httpx.Client) -> None:
    thought = {"type": "reasoning", "id": "rs_1", "content": [{"type": "reasoning_text", "text": "Hm."}]}
    said = {"type": "output_text", "text": "Hi.", "annotations": []}
    turns: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        thought | {"summary": []},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [said]},
        {"role": "user", "content": "Again"},
    ]
    same: Any = {"model": "deployed", "input": turns, "instructions": "Be kind.", "temperature": 0}
    whole = client.responses.create(**same, max_output_tokens=20)
    history = [("system", "Be kind."), ("user", "Hello"), ("assistant", "Hi."), ("user", "Again")]
    chat = ask(client, *history, temperature=0, max_tokens=20)
    assert whole.output_text == chat.choices[0].message.content
    assert whole.usage is not None
    counts = (whole.usage.input_tokens, whole.usage.output_tokens)
    assert counts == (chat.usage.prompt_tokens, chat.usage.completion_tokens)
    http_loop.vote(rest, whole.id, True)
    newest = http_loop.checked(rest.get("/api/v1/chats", params={"limit": 2}))["items"][-1]
    messages = http_loop.checked(rest.get(f"/api/v1/chats/{newest['id']}"))["messages"]
    assert (messages[1]["reasoning"], messages[-1]["vote"]["label"]) == ("Hm.", True)
    events: list[Any] = list(client.responses.create(**same, max_output_tokens=20, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text == whole.output_text
    assert events[-1].type == f"response.{whole.status}"
    cut = client.responses.create(model="deployed", input="Hello", temperature=0, max_output_tokens=1)
    assert cut.incomplete_details is not None
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"previous_response_id": "x"}, "previous_response_id"),
        ({"text": {"format": {"type": "json_object"}}}, "text"),
        ({"tools": [{"type": "function", "name": "f"}]}, "tools"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "4"}]}, "input"),
        ({"input": [{"role": "assistant", "content": "Hi"}]}, "input"),
        ({"extra_body": {"messages": []}}, "messages"),
        ({"extra_body": {"stop": "x"}}, "stop"),
    ],
    ids=str,
)
def test_what_the_responses_api_cannot_do_is_refused(
    client: openai.OpenAI, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**({"model": "deployed", "input": "Hello"} | options))
    body: Any = caught.value.body
    assert (body["param"], body["type"]) == (param, "invalid_request_error")
