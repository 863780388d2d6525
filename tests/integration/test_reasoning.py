"""Reasoning on its way through a server whose chat template opens it: apart from the reply everywhere."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from storage.db.database import Database
from tests.support import http_loop
from tests.support.chat_templates import R1
from tests.support.live_server import LiveServer, read_events
from tests.support.odd_conversations import comes_back

THOUGHT = {"role": "assistant", "content": "4", "reasoning_content": "Two and two."}
ASKED = {"role": "user", "content": "2 + 2?"}
# Replies as programs send them in a history, and as files have them.
REPLIES: dict[str, dict[str, Any]] = {
    "beside the content": {"reasoning_content": "Two and two.", "content": "4"},
    "under another name": {"reasoning": "Two and two.", "content": "4"},
    "in tags": {"content": "<think>\nTwo and two.\n</think>\n\n4"},
    "without the opening tag": {"content": "Two and two.\n</think>\n\n4"},
    "in parts": {
        "content": [{"type": "thinking", "thinking": "Two and two."}, {"type": "text", "text": "4"}],
    },
    "folded": {
        "content": '<details type="reasoning">\n<summary>Thought</summary>\n> Two and two.\n</details>\n4'
    },
}
OTHERS = [(shape, "jsonl") for shape in ("sharegpt", "swift")]
CUT_OFF: dict[str, dict[str, Any]] = {
    "in tags": {"content": "<think>\nTwo and two."},
    "without content": {"content": None, "reasoning_content": "Two and two."},
}


@pytest.fixture(scope="module")
def server_settings(tmp_path_factory: pytest.TempPathFactory, talkative_model: Path) -> dict[str, object]:
    model = tmp_path_factory.mktemp("r1") / "model"
    shutil.copytree(talkative_model, model)
    (model / "chat_template.jinja").write_text(R1)
    return {"model": str(model), "max_new_tokens": 12}


@pytest.fixture(scope="module")
def client(shared_server: LiveServer) -> Iterator[httpx.Client]:
    with shared_server.client("admin") as client:
        yield client


def complete(client: httpx.Client, reply: dict[str, Any], **more: Any) -> httpx.Response:
    messages = [ASKED, {"role": "assistant", **reply}, {"role": "user", "content": "Well?"}]
    return client.post("/v1/chat/completions", json={"model": "deployed", "messages": messages, **more})


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_reasoning_in_a_history_is_kept_apart(client: httpx.Client, reply: dict[str, Any]) -> None:
    assert history(client, reply) == ("4", "Two and two.")


@pytest.mark.parametrize("reply", CUT_OFF.values(), ids=CUT_OFF)
def test_reasoning_that_was_cut_off_is_no_reply(client: httpx.Client, reply: dict[str, Any]) -> None:
    assert history(client, reply) == ("", "Two and two.")


def history(client: httpx.Client, reply: dict[str, Any]) -> tuple[str, str]:
    answer = complete(client, reply)
    http_loop.checked(answer)
    assert "X-Thumbloop-Warning" not in answer.headers
    chat = http_loop.checked(client.get(f"/api/v1/chats/{answer.headers['X-Thumbloop-Chat']}"))
    return chat["messages"][1]["content"], chat["messages"][1]["reasoning"]


def test_the_completion_and_its_stream_have_it_apart(client: httpx.Client) -> None:
    sure = {"seed": 3, "temperature": 0}
    message = http_loop.checked(complete(client, THOUGHT, **sure))["choices"][0]["message"]
    assert message["content"] == ""  # this model never closes the reasoning that its prompt opened
    assert len(message["reasoning_content"]) > 3
    lines = complete(client, THOUGHT, stream=True, **sure).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert (
        "".join(delta.get("reasoning_content", "") for delta in deltas).strip()
        == message["reasoning_content"]
    )
    assert "".join(delta.get("content", "") for delta in deltas) == ""


def test_the_rest_api_has_it_apart(client: httpx.Client) -> None:
    chat = http_loop.checked(client.post("/api/v1/chats", json={}))["id"]
    with client.stream("POST", f"/api/v1/chats/{chat}/messages", json={"content": "Hi"}) as response:
        events = list(read_events(response))
    thought = "".join(data["text"] for name, data in events if name == "reasoning")
    done = events[-1][1]
    assert (done["content"], done["reasoning"]) == ("", thought.strip())
    shown = http_loop.checked(client.get(f"/api/v1/chats/{chat}"))["messages"][-1]
    assert (shown["content"], shown["reasoning"]) == ("", thought.strip())


def test_files_with_reasoning_come_back_the_same(
    client: httpx.Client, store: Database, tmp_path: Path
) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{name}?"}, *before],
            "completion": [{"role": "assistant", **reply}],
            "label": label,
        }
        for name, reply in REPLIES.items()
        for label, before in ((True, []), (False, [THOUGHT, {"role": "user", "content": "Sure?"}]))
    ]
    report = http_loop.checked(client.post("/api/v1/import", content="\n".join(map(json.dumps, rows))))
    assert report["accepted"] == len(rows)
    exported = client.get("/api/v1/export", params={"source": "import"}).text.split("\n")[:-1]
    assert len(exported) == len(rows)
    for line, row in zip(map(json.loads, exported), rows, strict=True):
        assert line["completion"] == [
            {"role": "assistant", "content": "4", "reasoning_content": "Two and two."}
        ]
        assert [one["reasoning_content"] for one in line["prompt"]] == ["", "Two and two.", ""][
            : len(row["prompt"])
        ]
    for shape, format in (("kto", "jsonl"), ("kto", "csv"), ("kto", "parquet"), *OTHERS):
        comes_back(store, tmp_path, shape, format)
    text = client.get("/api/v1/export", params={"source": "import", "shape": "kto-text"}).text.split("\n")[0]
    row = json.loads(text)
    assert row["prompt"].endswith("<|im_start|>assistant\n<think>\n")
    assert row["completion"] == "Two and two.\n</think>\n\n4<|im_end|>"


def test_a_reply_of_reasoning_alone_is_refused(client: httpx.Client) -> None:
    row = {"prompt": "2 + 2?", "completion": "<think>Two and", "label": False}
    answer = client.post("/api/v1/import", content=json.dumps(row))
    assert "completion is reasoning without a reply" in answer.text
