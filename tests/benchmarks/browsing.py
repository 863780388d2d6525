"""Many chat pages at once: each a new person, whose page streams one reply after another, four in a chat.

Prints how long the first update with text took beside the first delta of as many streams without a page, and
how the server's memory grew. Fails if a page hears anything of another person's chat. The model is tiny.
"""

import argparse
import asyncio
import json
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.benchmarks.report import print_report, server_with
from tests.support.fuzzed_requests import page_events
from tests.support.live_server import LiveServer
from tests.support.tiny_model import build_tiny_model

MB = 1024 * 1024
CHAT_MESSAGES = 4
SAID = re.compile(r"I am person (\d+)")


@dataclass
class Page:
    """A browser's tab: the page's config, its load event, then messages."""

    client: httpx.AsyncClient
    number: int
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    first_updates: list[float] = field(default_factory=list)

    async def open(self) -> None:
        (await self.client.get("/")).raise_for_status()
        config = (await self.client.get("/config")).json()
        elements = {each["id"]: each["props"].get("elem_id") for each in config["components"]}
        for event, request in zip(config["dependencies"], page_events(config), strict=True):
            names = [elements.get(target[0]) for target in event["targets"]]
            kinds = [target[1] for target in event["targets"]]
            if "load" in kinds:
                self.events["load"] = request
            elif names in (["tl-new"], ["tl-box", "tl-send"]):
                self.events[names[-1]] = request
        await self.act("load", [None, {}])

    async def send(self) -> None:
        """Send a message, at times in a new chat."""
        if len(self.first_updates) % CHAT_MESSAGES == CHAT_MESSAGES - 1:
            await self.act("tl-new", [None])
        began = time.perf_counter()
        arrivals = await self.act("tl-send", [f"I am person {self.number}", "", True, None])
        # The first drawing shows the message, the next one the first text of the reply.
        self.first_updates.append(arrivals[min(1, len(arrivals) - 1)] - began)

    async def act(self, event: str, data: list[Any]) -> list[float]:
        """When each update of an event came. A stream of its own each, as no other event is under way."""
        request = {**self.events[event], "data": data, "session_hash": f"page{self.number}"}
        joined = (await self.client.post("/gradio_api/queue/join", json=request)).raise_for_status().json()
        arrivals = []
        url = f"/gradio_api/queue/data?session_hash=page{self.number}"
        async with self.client.stream("GET", url) as response:
            async for line in response.aiter_lines():
                heard = {int(number) for number in SAID.findall(line)}
                assert heard <= {self.number}, f"page {self.number} heard of {heard}"
                if not line.startswith("data: "):
                    continue
                message = json.loads(line.removeprefix("data: "))
                if message.get("event_id") not in (None, joined["event_id"]):
                    continue
                if message["msg"] == "process_generating":
                    arrivals.append(time.perf_counter())
                elif message["msg"] == "process_completed":
                    assert message["success"], message
                    break
        return arrivals


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
    pages = [Page(client, number) for number, client in enumerate(clients)]
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

    async def go_on(page: Page) -> None:
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
