"""Acknowledged votes per second over HTTP on SQLite; the clients share the server's cores."""

import statistics
import threading
import time

from tests.benchmarks.report import print_report, server_with
from tests.integration import loop

CLIENTS, VOTES_EACH = 16, 60


def main() -> None:
    with server_with(max_new_tokens=4) as server:
        server.start()
        clients = [server.client() for _ in range(CLIENTS)]
        replies = [loop.chat_once(client, "Hi")["message_id"] for client in clients]
        latencies: list[float] = []

        def vote(index: int) -> None:
            for step in range(VOTES_EACH):
                began = time.monotonic()
                loop.vote(clients[index], replies[index], step % 2 == 0)
                latencies.append(time.monotonic() - began)

        threads = [threading.Thread(target=vote, args=(index,)) for index in range(CLIENTS)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.monotonic() - began
        print_report(
            "votes",
            {
                "clients": CLIENTS,
                "votes": len(latencies),
                "votes_per_s": round(len(latencies) / elapsed),
                "p50_ms": round(statistics.median(latencies) * 1000, 1),
                "p99_ms": round(statistics.quantiles(latencies, n=100)[98] * 1000, 1),
            },
        )


if __name__ == "__main__":
    main()
