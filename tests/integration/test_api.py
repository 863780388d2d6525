"""Chats, replies and votes over the REST API: shapes, events, and clients that hang up."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.support import http_loop
from tests.support.live_server import LiveServer, StartServer, read_events, wait_until
from tests.support.rest import messages_of, new_chat, refused, send


def test_a_reply_comes_as_events_and_is_stored(client: httpx.Client) -> None:
    chat_id = new_chat(client, title="Events")
    path = f"/api/v1/chats/{chat_id}/messages"
    with client.stream("POST", path, json={"content": "Tell me", "max_new_tokens": 8}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-thumbloop-model-version"] == "v1"
        events = list(read_events(response))
    assert [name for name, _ in events if name != "delta"] == ["message", "done"]
    begin, end = events[0][1], events[-1][1]
    assert set(begin) == {"user_message_id", "message_id", "model_version"}
    assert "".join(data["text"] for name, data in events if name == "delta") == end["content"]
    assert end["message_id"] == begin["message_id"]
    assert end["model_version"] == "v1"
    chat = http_loop.checked(client.get(f"/api/v1/chats/{chat_id}"))
    assert [m["id"] for m in chat["messages"]] == [begin["user_message_id"], begin["message_id"]]
    reply = chat["messages"][1]
    assert (reply["content"], reply["state"], reply["model_version"]) == (end["content"], "complete", "v1")
    assert reply["vote"] is None
    assert reply["siblings"] == [reply["id"]]


def test_a_reply_without_events_has_the_same_fields(client: httpx.Client) -> None:
    reply = send(client, new_chat(client), max_new_tokens=4)
    assert reply["role"] == "assistant"
    assert {"id", "content", "model_version", "finish_reason"} <= set(reply)
    assert http_loop.checked(client.get(f"/api/v1/chats/{reply['chat_id']}"))["messages"][1] == reply


def test_sampling_is_the_callers_choice(client: httpx.Client) -> None:
    first, second, other = (
        send(client, new_chat(client), seed=seed, temperature=1.5, max_new_tokens=20)["content"]
        for seed in (7, 7, 8)
    )
    assert first == second != other
    path = f"/api/v1/chats/{new_chat(client)}/messages"
    for name, value in {"temperature": 3, "top_p": 0, "max_new_tokens": 0, "stop": [""]}.items():
        assert name in refused(client.post(path, json={"content": "Hi", name: value}), 422, field=name)


def test_a_regenerated_reply_is_a_sibling_and_the_other_branch_can_be_continued(client: httpx.Client) -> None:
    chat_id = new_chat(client)
    first = send(client, chat_id)
    answer = client.post(f"/api/v1/messages/{first['id']}/regenerate", params={"stream": False})
    second = http_loop.checked(answer)
    shown = messages_of(client, chat_id)
    assert shown[-1]["id"] == second["id"]
    assert shown[-1]["siblings"] == [first["id"], second["id"]]
    assert shown[-1] == second
    send(client, chat_id, "Go on", parent_id=first["id"])
    assert second["id"] in messages_of(client, chat_id)[1]["siblings"]
    elsewhere = send(client, new_chat(client))
    path = f"/api/v1/chats/{chat_id}/messages"
    refused(client.post(path, json={"content": "Hi", "parent_id": elsewhere["id"]}), 422, field="parent_id")


def test_a_reply_can_be_cancelled_and_keeps_its_text(endless_server: LiveServer) -> None:
    with endless_server.client() as client, endless_server.client() as other:
        chat_id = new_chat(client)
        path = f"/api/v1/chats/{chat_id}/messages"
        text, cancel = "", ""
        with client.stream("POST", path, json={"content": "Go"}) as response:
            for name, data in read_events(response):
                if name == "message":
                    cancel = f"/api/v1/messages/{data['message_id']}/cancel"
                elif name == "delta" and not text:
                    assert http_loop.checked(other.post(cancel))["cancelled"] is True
                text += data.get("text", "")
        assert name == "done"
        assert (data["content"], data["finish_reason"]) == (text, "cancelled")
        reply = messages_of(client, chat_id)[-1]
        assert (reply["content"], reply["state"]) == (text, "stopped")
        follow = cancel.replace("/cancel", "/events")
        with client.stream("GET", follow) as response:
            assert list(read_events(response))[1:] == [("delta", {"text": text}), ("done", data)]
        refused(client.get(follow.replace(reply["id"], reply["parent_id"])), 422, field="message_id")
        assert http_loop.checked(client.post(cancel))["cancelled"] is False


def test_a_reply_under_way_takes_no_vote_and_ends_when_its_reader_hangs_up(
    endless_server: LiveServer,
) -> None:
    def stopped() -> dict[str, Any] | None:
        messages = messages_of(client, chat_id)
        return messages[-1] if messages and messages[-1]["state"] == "stopped" else None

    with endless_server.client() as client, endless_server.client() as other:
        chat_id = new_chat(client)
        path = f"/api/v1/chats/{chat_id}/messages"
        with client.stream("POST", path, json={"content": "Go"}) as response:
            events = read_events(response)
            _, begin = next(events)
            vote = other.put(f"/api/v1/messages/{begin['message_id']}/vote", json={"label": True})
            refused(vote, 409, "still_streaming")
            refused(other.post(path, json={"content": "Too soon"}), 409)
            while next(events)[0] != "delta":
                pass
        reply = wait_until(stopped, 30)
        assert reply["finish_reason"] == "cancelled"
        http_loop.vote(client, reply["id"], False)  # what it had is kept, and can be voted on

        chat_id = new_chat(client)
        with contextlib.suppress(httpx.ReadTimeout):
            other.post(
                f"/api/v1/chats/{chat_id}/messages",
                params={"stream": False},
                json={"content": "Go"},
                timeout=httpx.Timeout(60, read=1),
            )
        assert wait_until(stopped, 30)["finish_reason"] == "cancelled"


def test_a_chat_is_found_by_its_text_and_exported(shared_server: LiveServer, client: httpx.Client) -> None:
    with shared_server.client("user", "eve") as eve:
        reply = http_loop.chat_once(eve, 'Of 50% Rivers\u2028 and "boats"')
        found = http_loop.checked(eve.get("/api/v1/chats", params={"search": "50% rIVERS"}))["items"]
        assert [chat["id"] for chat in found] == [reply["chat_id"]]
        assert not http_loop.checked(client.get("/api/v1/chats", params={"search": "50% rIVERS"}))["items"]
        refused(eve.get("/api/v1/chats", params={"search": "x" * 201}), 422, field="search")
        path = f"/api/v1/chats/{reply['chat_id']}"
        assert eve.get(f"{path}/export", params={"format": "json"}).json() == eve.get(path).json()
        text = eve.get(f"{path}/export")
        assert text.headers["content-disposition"] == 'attachment; filename="of-50-rivers-and-boats.md"'
        assert text.text.startswith('# Of 50% Rivers and "boats"\n\n**You**\n\nOf 50% Rivers')
        refused(client.get(f"{path}/export"), 403, "not_yours")
        refused(eve.get(f"{path}/export", params={"format": "pdf"}), 422, field="format")


def test_chats_are_paged_renamed_and_deleted(shared_server: LiveServer, client: httpx.Client) -> None:
    with shared_server.client("user", "ada") as ada:
        made = [new_chat(ada, title=str(number)) for number in range(5)]
        first = http_loop.checked(ada.get("/api/v1/chats", params={"limit": 3}))
        rest = http_loop.checked(ada.get("/api/v1/chats", params={"limit": 2, "cursor": first["next"]}))
        assert [chat["id"] for chat in first["items"] + rest["items"]] == made[::-1]
        assert rest["next"] is None
        path = f"/api/v1/chats/{made[0]}"
        assert http_loop.checked(ada.patch(path, json={"title": "Better"}))["title"] == "Better"
        refused(ada.patch(path, json={"title": "x" * 201}), 422, field="title")
        refused(ada.patch(path, json={"sampling": {"top_p": 0}}), 422, field="top_p")
        cold = {"temperature": 0.0, "max_new_tokens": 3}
        changed = http_loop.checked(ada.patch(path, json={"system_prompt": "Be kind.", "sampling": cold}))
        assert (changed["system_prompt"], changed["sampling"]) == ("Be kind.", cold)
        reply = http_loop.chat_once(ada, "Hello", changed["id"])
        assert reply["finish_reason"] == "length"
        refused(ada.patch(path, json={"system_prompt": "Be rude."}), 409, "chat_begun")
        assert http_loop.checked(ada.patch(path, json={"sampling": {}}))["sampling"] is None
        for method in ("get", "delete"):
            refused(getattr(client, method)(path), 403, "not_yours")
        assert ada.delete(path).status_code == 204
        refused(ada.get(path), 404, "not_found")
        refused(ada.get("/api/v1/chats", params={"cursor": "yesterday"}), 422, field="cursor")
        refused(ada.get("/api/v1/chats", params={"limit": 0}), 422, field="limit")
        assert http_loop.checked(ada.get("/api/v1/me"))["name"] == "ada"


def test_the_messages_of_a_chat_are_paged(client: httpx.Client, stranger: httpx.Client) -> None:
    chat_id = new_chat(client)
    for question in ("One?", "Two?"):
        send(client, chat_id, question)
    path, cursor, found = f"/api/v1/chats/{chat_id}/messages", None, []
    while True:
        page = http_loop.checked(
            client.get(path, params={"limit": 3, "cursor": cursor} if cursor else {"limit": 3})
        )
        found += page["items"]
        if (cursor := page["next"]) is None:
            break
    assert found == messages_of(client, chat_id)
    assert [message["role"] for message in found] == ["user", "assistant"] * 2
    refused(stranger.get(path), 403, "not_yours")


def test_votes_are_cast_changed_and_cleared(client: httpx.Client, stranger: httpx.Client) -> None:
    chat_id = new_chat(client)
    reply = send(client, chat_id)
    path = f"/api/v1/messages/{reply['id']}/vote"
    unvoted = http_loop.checked(client.delete(path))
    assert (unvoted["label"], unvoted["revision"]) == (None, 0)
    for body, revision in (
        ({"label": True}, 1),
        ({"label": True}, 1),  # the same again changes nothing
        ({"label": False, "tags": ["wrong"], "comment": "No.", "correction": "Yes."}, 2),
    ):
        vote = http_loop.checked(client.put(path, json=body))
        assert vote["message_id"] == reply["id"]
        assert (vote["label"], vote["revision"]) == (body["label"], revision)
    shown = messages_of(client, chat_id)[-1]["vote"]
    assert (shown["label"], shown["tags"], shown["correction"]) == (False, ["wrong"], "Yes.")
    refused(stranger.delete(path), 403, "not_yours")
    refused(stranger.put(path, json={"label": True}), 403, "not_yours")
    cleared = http_loop.checked(client.delete(path))
    assert (cleared["label"], cleared["revision"]) == (None, 3)
    assert messages_of(client, chat_id)[-1]["vote"] is None
    for label in ("true", 1, None, [True]):
        message = refused(client.put(path, json={"label": label}), 422, "invalid_input", field="label")
        assert "must be true or false" in message
    refused(client.put(path, json={"label": True, "tags": ["x" * 51]}), 422)
    too_long = {"label": True, "comment": "x" * 40_000}
    refused(client.put(path, json=too_long), 413, "too_large", field="comment")
    question = messages_of(client, chat_id)[0]["id"]
    refused(client.put(f"/api/v1/messages/{question}/vote", json={"label": True}), 422, "not_a_reply")


def test_many_streams_keep_nobody_else_waiting(start_server: StartServer) -> None:
    """More replies wait than FastAPI has threads for everything else (40)."""
    server = start_server(max_concurrent_replies=1, max_waiting_replies=60, max_new_tokens=900)
    with server.client() as client, ThreadPoolExecutor(45) as pool:
        chats = [new_chat(client) for _ in range(45)]
        begun, enough = threading.Semaphore(0), threading.Event()

        def hold(chat_id: str) -> None:
            with server.client() as mine:
                path = f"/api/v1/chats/{chat_id}/messages"
                with mine.stream("POST", path, json={"content": "Go", "temperature": 1.0}) as response:
                    next(read_events(response))
                    begun.release()
                    enough.wait(120)  # and then hang up

        holding = pool.map(hold, chats)
        for _ in chats:
            assert begun.acquire(timeout=120)
        listed = http_loop.checked(client.get("/api/v1/chats", params={"limit": 200}))["items"]
        assert len(listed) == 45
        enough.set()
        assert len(list(holding)) == 45
        # A client that hung up leaves no reply behind that still takes a place.
        wait_until(lambda: all(messages_of(client, chat_id)[-1]["state"] != "streaming" for chat_id in chats))
