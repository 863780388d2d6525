"""The steps of the feedback loop over HTTP, for the tests that walk through it."""

import json
from typing import Any

import httpx

from tests.support.live_server import LiveServer, read_events, wait_until


def chat_once(client: httpx.Client, text: str, chat_id: str | None = None) -> dict[str, Any]:
    """Send a message, follow the stream to its end, and return the `done` event with `chat_id`."""
    chat_id = chat_id or checked(client.post("/api/v1/chats", json={}))["id"]
    with client.stream("POST", f"/api/v1/chats/{chat_id}/messages", json={"content": text}) as response:
        assert response.status_code == 200, response.read()
        events = list(read_events(response))
    assert [name for name, _ in events if name != "delta"] == ["message", "done"], events
    done = events[-1][1]
    assert "".join(data["text"] for name, data in events if name == "delta") == done["content"]
    return done | {"chat_id": chat_id}


def vote(client: httpx.Client, message_id: str, label: bool) -> dict[str, Any]:
    return checked(client.put(f"/api/v1/messages/{message_id}/vote", json={"label": label}))


def chat_and_vote(client: httpx.Client, number: int) -> list[dict[str, Any]]:
    """That many chats of one message each, every third voted down."""
    replies = []
    for index in range(number):
        reply = chat_once(client, f"Question {index}: what is {index} plus {index}?")
        vote(client, reply["message_id"], index % 3 != 0)
        replies.append(reply | {"label": index % 3 != 0})
    return replies


def import_votes(client: httpx.Client, number: int) -> None:
    """That many rated chats as a file, every third voted down."""
    rows = [
        {"prompt": f"What is {n} plus {n}?", "completion": f"It is {2 * n}.", "label": n % 3 != 0}
        for n in range(number)
    ]
    checked(client.post("/api/v1/import", content="\n".join(map(json.dumps, rows))))


def request_run(client: httpx.Client, **body: Any) -> str:
    response = client.post("/api/v1/training-runs", json=body)
    assert response.status_code == 202, response.text
    run = response.json()
    assert run["state"] == "requested"
    return str(run["id"])


def wait_for_run(
    server: LiveServer, client: httpx.Client, run_id: str, seconds: float = 240
) -> dict[str, Any]:
    """Poll until the run is over; returns it."""

    def over() -> dict[str, Any] | None:
        run = checked(client.get(f"/api/v1/training-runs/{run_id}"))
        return None if run["state"] in ("requested", "running") else run

    run = wait_until(over, seconds, lambda: explain(server, run_id))
    assert isinstance(run, dict)
    return run


def explain(server: LiveServer, run_id: str) -> str:
    """The logs, for the message of a test that fails."""
    log = server.settings.data_dir / "runs" / run_id / "train.log"
    trained = log.read_text() if log.exists() else "(no training log)"
    return f"Server:\n{server.log.read_text()[-4000:]}\nTrainer:\n{trained[-4000:]}"


def deployed(client: httpx.Client) -> str:
    versions = checked(client.get("/api/v1/model-versions"))["items"]
    (name,) = [version["name"] for version in versions if version["deployed"]]
    return str(name)


def checked(response: httpx.Response) -> Any:
    assert response.status_code in (200, 201, 202), f"{response.status_code}: {response.text}"
    return response.json()
