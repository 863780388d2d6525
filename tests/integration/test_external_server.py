"""An external server that really generates: another Thumbloop, and `transformers serve`."""

import os
import subprocess
import sys
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
from tests.support.live_server import LiveServer, free_port, get, read_events, wait_until
from tests.support.programs import run_command
from tests.support.tiny_model import build_tiny_model
from trainer.model.base_model import resolve

SURE = {"seed": 3, "temperature": 1.2, "top_p": 0.95, "max_tokens": 12}
LONG = {"max_new_tokens": 900}
KEY_NAME = "thumbloop"


@pytest.fixture(scope="module")
def endless_talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "talker", stops=False)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory, endless_talker: Path) -> Iterator[LiveServer]:
    server = LiveServer(
        {"data_dir": tmp_path_factory.mktemp("upstream") / "data", "model": str(endless_talker), **LONG}
    )
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def ours(
    tmp_path_factory: pytest.TempPathFactory, endless_talker: Path, upstream: LiveServer
) -> Iterator[LiveServer]:
    server = LiveServer(
        {
            "data_dir": tmp_path_factory.mktemp("ours") / "data",
            "model": str(endless_talker),
            "backend": "openai",
            "openai_base_url": f"{upstream.url}/v1",
            "openai_api_key": upstream.token("user", KEY_NAME),
            "openai_model": "v1",
            **LONG,
        }
    )
    server.start()
    yield server
    server.close()


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
    said = []
    for server in (ours, upstream):
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token("user", "app")) as asking:
            messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "🌊?"}]
            completion = asking.chat.completions.create(model="v1", messages=messages, **SURE)  # type: ignore[call-overload]
            said.append((completion.choices[0].message.content, completion.choices[0].finish_reason))
            assert completion.usage.completion_tokens == 12
            assert completion.usage.prompt_tokens > 10
    assert said[0] == said[1]
    asked = newest_chat(upstream, KEY_NAME)
    assert (asked["system_prompt"], asked["messages"][0]["content"]) == ("Be brief.", "🌊?")


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
        said = run_command("doctor", environment=ours.environment | names).stdout
        assert ours.settings.openai_api_key not in said
        return said[said.index("backend") :].partition("port ")[0]

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


def test_it_starts_before_its_server(endless_talker: Path, tmp_path: Path) -> None:
    port = free_port()
    waiting = LiveServer(
        {
            "data_dir": tmp_path / "waiting",
            "model": str(endless_talker),
            "backend": "openai",
            "openai_base_url": f"http://127.0.0.1:{port}/v1",
            "openai_model": "v1",
        }
    )
    try:
        waiting.start(wait=False)
        wait_until(
            lambda: "replies once the model server does" in log_of(waiting), 60, lambda: log_of(waiting)
        )
        wait_until(lambda: answers(f"{waiting.url}/healthz"), 60, lambda: log_of(waiting))
        assert get(f"{waiting.url}/readyz").status_code == 503
    finally:
        waiting.close()


def log_of(server: LiveServer) -> str:
    return server.log.read_text() if server.log.exists() else ""


def answers(url: str) -> bool:
    try:
        return get(url).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory, endless_talker: Path) -> Iterator[str]:
    """`transformers serve` with the model, as it is installed."""
    port = free_port()
    log = tmp_path_factory.mktemp("foreign") / "serve.log"
    (log.parent / "hub").mkdir()  # it lists what is in there
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(endless_talker)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--device", "cpu"],
            stdout=output,
            stderr=output,
            env={**os.environ, "HF_HOME": str(log.parent)},
        )
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(f"{url}/health"), 240, log.read_text)
    yield f"{url}/v1"
    process.kill()
    process.wait()


def test_transformers_serve_is_understood(foreign: str, endless_talker: Path, tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        model=str(endless_talker),
        backend="openai",
        openai_base_url=foreign,
        openai_model=str(endless_talker),
    )
    backend = ExternalBackend(settings, resolve(settings))
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
    backend.close()
