"""An external server that really generates: another Thumbloop, and `transformers serve`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from app.serving.backend import ServedVersion
from app.serving.openai.backend import ExternalBackend
from app.serving.reply import Sampling
from storage.settings import Settings
from tests.support import http_loop
from tests.support.live_server import LiveServer, answers, get, read_events, wait_until
from tests.support.programs import free_port, run_command
from tests.support.transformers_server import transformers_serve
from trainer.model.base_model import resolve

SURE = {"seed": 3, "temperature": 1.2, "top_p": 0.95, "max_tokens": 12}
LONG = {"max_new_tokens": 900}
KEY_NAME = "thumbloop"


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory, talkative_model: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("upstream") / "data"
    with LiveServer({"data_dir": folder, "model": talkative_model, **LONG}) as server:
        yield server


@pytest.fixture(scope="module")
def ours(
    tmp_path_factory: pytest.TempPathFactory, talkative_model: Path, upstream: LiveServer
) -> Iterator[LiveServer]:
    folder, key = tmp_path_factory.mktemp("ours") / "data", upstream.token("user", KEY_NAME)
    theirs = before(f"{upstream.url}/v1") | {"openai_api_key": key}
    with LiveServer({"data_dir": folder, "model": talkative_model, **theirs, **LONG}) as server:
        yield server


def before(address: str) -> dict[str, object]:
    """The settings of a server whose replies come from another one."""
    return {"backend": "openai", "openai_base_url": address, "openai_model": "v1"}


@pytest.fixture(scope="module")
def client(ours: LiveServer) -> Iterator[httpx.Client]:
    with ours.client() as client:
        yield client


def newest_chat(server: LiveServer, name: str) -> dict[str, Any]:
    """The newest chat of a person, as their server keeps it."""
    with server.client("user", name) as client:
        chat = http_loop.checked(client.get("/api/v1/chats", params={"limit": 1}))["items"][0]
        return dict(http_loop.checked(client.get(f"/api/v1/chats/{chat['id']}")))


def test_a_reply_is_the_servers_word_for_word(ours: LiveServer, upstream: LiveServer) -> None:
    replies = []
    for server in (ours, upstream):
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token("user", "app")) as asking:
            messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "🌊?"}]
            completion = asking.chat.completions.create(model="v1", messages=messages, **SURE)  # type: ignore[call-overload]
            replies.append((completion.choices[0].message.content, completion.choices[0].finish_reason))
            assert completion.usage.completion_tokens == 12
            assert completion.usage.prompt_tokens > 10
    assert replies[0] == replies[1]
    stored = newest_chat(upstream, KEY_NAME)
    assert (stored["system_prompt"], stored["messages"][0]["content"]) == ("Be brief.", "🌊?")


def test_it_is_streamed_kept_and_voted_on(ours: LiveServer, client: httpx.Client) -> None:
    assert get(f"{ours.url}/readyz").json() == {"status": "ready", "deployed": "v1"}
    chat = http_loop.checked(client.post("/api/v1/chats", json={}))["id"]
    body = {"content": "Hello", "max_new_tokens": 900}  # what came meanwhile comes as one event
    with client.stream("POST", f"/api/v1/chats/{chat}/messages", json=body) as response:
        events = list(read_events(response))
    deltas = [data["text"] for name, data in events if name == "delta"]
    done = events[-1][1]
    assert len(deltas) > 1
    assert "".join(deltas) == done["content"]
    assert http_loop.vote(client, done["message_id"], True)["label"] is True
    second = http_loop.chat_once(client, "And then?", chat)
    kept = http_loop.checked(client.get(f"/api/v1/chats/{chat}"))["messages"]
    assert [message["content"] for message in kept] == [
        "Hello",
        done["content"],
        "And then?",
        second["content"],
    ]


def test_the_doctor_looks_at_the_server(ours: LiveServer) -> None:
    def line(**changes: str) -> str:
        names = {f"THUMBLOOP_{name.upper()}": value for name, value in changes.items()}
        report = run_command("doctor", environment=ours.environment | names).stdout
        assert ours.settings.openai_api_key not in report
        return report[report.index("backend") :].partition("port ")[0]

    assert "loads no adapters" in line()
    assert "it lists " in line(openai_model="gpt-9")
    assert "THUMBLOOP_OPENAI_API_KEY" in line(openai_api_key="wrong")
    assert "cannot be reached" in line(openai_base_url="http://127.0.0.1:9/v1")


def test_a_server_that_goes_away_and_comes_back(
    ours: LiveServer, client: httpx.Client, upstream: LiveServer
) -> None:
    upstream.kill()
    chat = http_loop.checked(client.post("/api/v1/chats", json={}))["id"]

    def ask(content: str) -> httpx.Response:
        return client.post(
            f"/api/v1/chats/{chat}/messages?stream=false",
            json={"content": content, "max_new_tokens": 4},
        )

    def left_alone() -> bool:
        failed = ask("Hello")
        assert (failed.status_code, failed.json()["error"]["code"]) == (503, "model_server_failed")
        assert int(failed.headers["Retry-After"]) >= 1
        return "left alone" in failed.text

    def kept() -> int:
        return len(http_loop.checked(client.get(f"/api/v1/chats/{chat}"))["messages"])

    def left_alone_without_a_trace() -> bool:
        before = kept()
        return left_alone() and kept() == before

    wait_until(left_alone_without_a_trace, 60)
    wait_until(lambda: get(f"{ours.url}/readyz").status_code == 503, 60)
    assert get(f"{ours.url}/healthz").status_code == 200
    upstream.start()
    wait_until(lambda: ask("Hello again").status_code == 200, 30, ours.log.read_text)
    wait_until(lambda: get(f"{ours.url}/readyz").status_code == 200, 60)
    assert ours.settings.openai_api_key not in ours.log.read_text()


def test_it_starts_before_its_server(talkative_model: Path, tmp_path: Path) -> None:
    nobody = before(f"http://127.0.0.1:{free_port()}/v1")
    waiting = LiveServer({"data_dir": tmp_path / "waiting", "model": talkative_model, **nobody})
    try:
        waiting.start(wait=False)
        read = waiting.log.read_text
        wait_until(lambda: "replies once the model server does" in read(), 60, read)
        wait_until(lambda: answers(f"{waiting.url}/healthz"), 60, read)
        assert get(f"{waiting.url}/readyz").status_code == 503
    finally:
        waiting.close()


@pytest.fixture
def foreign(talkative_model: Path, tmp_path: Path) -> Iterator[ExternalBackend]:
    """A backend whose server is `transformers serve` with the model, as it is installed."""
    with transformers_serve(talkative_model, tmp_path) as (url, _):
        theirs = before(f"{url}/v1") | {"openai_model": str(talkative_model)}
        settings = Settings(data_dir=tmp_path, model=str(talkative_model), **theirs)  # type: ignore[arg-type]
        backend = ExternalBackend(settings, resolve(settings))
        yield backend
        backend.close()


def test_transformers_serve_is_understood(foreign: ExternalBackend) -> None:
    backend = foreign
    base = ServedVersion("base", "v1", None)
    backend.load(base)
    hello = [{"role": "user", "content": "Hello"}]
    stream = backend.stream(base.id, hello, Sampling(temperature=0, top_p=1, max_new_tokens=12))
    deltas = list(stream)
    end = stream.end
    assert len(deltas) > 1
    assert (end.finish_reason, end.timings["tokens"], end.token_ids) == ("length", 12, None)
    stop = end.content[4:7]
    cut = backend.stream(
        base.id, hello, Sampling(temperature=0, top_p=1, max_new_tokens=12, stop=(stop,))
    ).end
    assert (cut.finish_reason, cut.content) == ("stop", end.content[: end.content.index(stop)])
    assert backend.trouble() is None
