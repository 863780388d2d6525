"""First-token time and tokens per second over HTTP, with 1 and with 8 chats at once."""

import statistics
import threading
import time
from typing import Any

from tests.benchmarks.report import print_report, server_with
from tests.integration import loop
from tests.live_server import LiveServer, read_events

QUESTION = "Explain in a few sentences why the sky is blue, number {}."


def measure(server: LiveServer, chats: int) -> dict[str, Any]:
    """All chats send one message at the same moment; tokens are counted by the server."""
    first_token: list[float] = []
    reply_ids: list[str] = []
    barrier = threading.Barrier(chats + 1)

    def run(number: int) -> None:
        with server.client() as client:
            chat = loop.checked(client.post("/api/v1/chats", json={}))["id"]
            barrier.wait()
            began = time.monotonic()
            body = {"content": QUESTION.format(number)}
            with client.stream("POST", f"/api/v1/chats/{chat}/messages", json=body) as response:
                for name, data in read_events(response):
                    if name == "delta" and data["text"] and len(data["text"]) > 0:
                        first_token.append(time.monotonic() - began)
                        reply_ids.append(chat)
                        break
                for _ in read_events(response):
                    pass

    threads = [threading.Thread(target=run, args=(number,)) for number in range(chats)]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.monotonic()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - began
    return {
        "chats": chats,
        "first_token_s_median": round(statistics.median(first_token), 3),
        "first_token_s_worst": round(max(first_token), 3),
        "tokens_per_s": round(count_tokens(server, reply_ids) / elapsed, 1),
    }


def count_tokens(server: LiveServer, chat_ids: list[str]) -> int:
    with server.client() as client:
        replies = [loop.checked(client.get(f"/api/v1/chats/{chat}"))["messages"][-1] for chat in chat_ids]
    return sum(reply["timings"]["tokens"] for reply in replies)


def main() -> None:
    with server_with(max_new_tokens=128) as server:
        server.start()
        measure(server, 1)  # warm up
        print_report("serving", {"rounds": [measure(server, chats) for chats in (1, 8)]})


if __name__ == "__main__":
    main()
