"""The steps that the tests of the REST API share."""

from typing import Any

import httpx

from tests.support import http_loop


def refused(response: httpx.Response, status: int, code: str | None = None, field: str | None = None) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) - {"field"} == {"code", "message"}
    assert code in (None, error["code"])
    assert field in (None, error.get("field")), error
    return str(error["message"])


def new_chat(client: httpx.Client, **body: Any) -> str:
    return str(http_loop.checked(client.post("/api/v1/chats", json=body))["id"])


def messages_of(client: httpx.Client, chat_id: str) -> list[dict[str, Any]]:
    found = http_loop.checked(client.get(f"/api/v1/chats/{chat_id}"))["messages"]
    assert isinstance(found, list)
    return found


def send(client: httpx.Client, chat_id: str, content: str = "Hello", **body: Any) -> dict[str, Any]:
    path = f"/api/v1/chats/{chat_id}/messages"
    answer = http_loop.checked(client.post(path, params={"stream": False}, json={"content": content, **body}))
    assert isinstance(answer, dict)
    return answer
