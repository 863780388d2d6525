"""Many chat pages at once: each a new person, whose page streams one reply after another, four in a chat.

Prints how long the first update with text took beside the first delta of as many streams without a page, and
how the server's memory grew. Fails if a page hears anything of another person's chat. The model is tiny.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.benchmarks.report import print_report, server_with
from tests.support.chat_tab import ChatTab
from tests.support.live_server import LiveServer
from tests.support.tiny_model import build_tiny_model

MB = 1024 * 1024


async def worst_of_the_engine(server: LiveServer, sessions: int) -> float:
    """The longest time to a first delta over HTTP without a page, with as many at once."""

    async def first_delta(client: httpx.AsyncClient) -> float:
        chat = (await client.post("/api/v1/chats", json={})).json()["id"]
        began, first = time.perf_counter(), 0.0
        path = f"/api/v1/chats/{chat}/messages"
        async with client.stream("POST", path, json={"content": "I am a program"}) as response:
            async for line in response.aiter_lines():
                if line == "event: delta" and not first:
                    first = time.perf_counter() - began
        return first

    async with httpx.AsyncClient(
        base_url=server.url,
        headers={"Authorization": f"Bearer {server.token()}"},
        timeout=300,
        limits=httpx.Limits(max_connections=None),
    ) as client:
        return max(await asyncio.gather(*(first_delta(client) for _ in range(sessions))))


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def browse(server: LiveServer, sessions: int, seconds: float) -> dict[str, Any]:
    # Servers close idle connections after 5 s; a request must not meet one that is about to be.
    limits = httpx.Limits(keepalive_expiry=2)
    clients = [httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) for _ in range(sessions)]
    pages = [ChatTab(client, number) for number, client in enumerate(clients)]
    for page in pages:
        await page.open()
    alone = await worst_of_the_engine(server, sessions)
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    await asyncio.gather(*(page.send() for page in pages))  # what the first replies take stays
    opening = [page.first_updates.pop() for page in pages]
    memory = [process.memory_info().rss]
    spent = -cpu_seconds(process), -time.process_time()
    end = time.monotonic() + seconds

    async def go_on(page: ChatTab) -> None:
        while time.monotonic() < end:
            await page.send()

    async def watch() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(min(10, seconds))
            memory.append(process.memory_info().rss)

    await asyncio.gather(watch(), *(go_on(page) for page in pages))
    spent = spent[0] + cpu_seconds(process), spent[1] + time.process_time()
    for client in clients:
        await client.aclose()
    firsts = sorted([one for page in pages for one in page.first_updates] or opening)
    half = memory[len(memory) // 2]
    return {
        "pages": sessions,
        "replies": len(firsts),
        "engine's worst first delta": round(alone, 2),
        "worst first update, all at the same moment": round(max(opening), 2),
        "first update p50": round(firsts[len(firsts) // 2], 2),
        "first update p95": round(firsts[int(len(firsts) * 0.95)], 2),
        "worst first update": round(firsts[-1], 2),
        "server's CPU seconds a reply": round(spent[0] / len(firsts), 3),
        "pages' CPU seconds a reply": round(spent[1] / len(firsts), 3),
        "memory MB, after the first replies": round(memory[0] / MB),
        "memory MB, half-way": round(half / MB),
        "memory MB, at the end": round(memory[-1] / MB),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--sessions", type=int, default=100)
    arguments.add_argument("--minutes", type=float, default=30)
    given = arguments.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        server_with(
            model=build_tiny_model(Path(folder) / "model"),
            max_concurrent_replies=given.sessions,
            max_waiting_replies=given.sessions,
            max_replies_per_minute=0,
            max_new_tokens=64,
        ) as server,
    ):
        server.start()
        print_report("Chat pages at once", asyncio.run(browse(server, given.sessions, given.minutes * 60)))


if __name__ == "__main__":
    main()
