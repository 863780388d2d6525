"""What Thumbloop adds before an external server: first token and whole reply, directly and through it.

The server answers at a steady pace and computes nothing, so that what is more through Thumbloop is
Thumbloop's. Requests begin at fixed times, however long earlier ones take.
"""

import argparse
import asyncio
import gc
import json
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.benchmarks.report import print_report, server_with
from tests.support.steady_server import MODEL, steady_server
from tests.support.tiny_model import build_tiny_model

TOKENS = 16
GAP_SECONDS = 0.01  # before each token


async def ask(client: httpx.AsyncClient, model: str) -> tuple[float, float]:
    """Seconds to the first token and to the end."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    began, first = time.perf_counter(), 0.0
    async with client.stream("POST", "chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if (
                not first
                and line.startswith("data: {")
                and json.loads(line[6:])["choices"][0]["delta"].get("content")
            ):
                first = time.perf_counter() - began
            assert '"error"' not in line, line
    return first, time.perf_counter() - began


async def load(url: str, key: str, model: str, rate: float, seconds: float) -> list[tuple[float, float]]:
    # Servers close idle connections after 5 s; a request must not meet one that is about to be.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200, keepalive_expiry=2)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=f"{url}/", headers=headers, limits=limits, timeout=60) as client:
        for _ in range(5):
            await ask(client, model)
        began = time.perf_counter()
        tasks = []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(ask(client, model)))
        return await asyncio.gather(*tasks)


class Processes:
    """What each process of a round takes of the processor, for each request."""

    def __init__(self, **pids: int) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._before = self._seconds()

    def each_request(self, requests: int) -> dict[str, float]:
        return {
            name: round(1000 * (seconds - self._before[name]) / requests, 2)
            for name, seconds in self._seconds().items()
        }

    def _seconds(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: taken.user + taken.system for name, taken in times.items()}


def spread(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {f"p{p}_ms": round(1000 * ordered[len(ordered) * p // 100], 1) for p in (50, 90, 99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    gc.freeze()  # a collection over all that was imported takes 0.3 s, and nobody should wait for it
    with ExitStack() as stack:
        steady = stack.enter_context(steady_server(TOKENS, GAP_SECONDS))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        settings: dict[str, Any] = {
            "model": str(build_tiny_model(Path(folder) / "tiny")),
            "backend": "openai",
            "openai_base_url": steady.url,
            "openai_model": MODEL,
            "max_concurrent_replies": 256,
            "max_new_tokens": TOKENS,
        }
        server = stack.enter_context(server_with(**settings))
        server.start()
        rounds = {}
        pids = {"generator": os.getpid(), "steady_server": steady.pid, "ours": server.process.pid}
        for name, where in {
            "direct": (steady.url, "none", MODEL),
            "through": (f"{server.url}/v1", server.token("user", "bench"), "deployed"),
        }.items():
            processes = Processes(**pids)
            times = asyncio.run(load(*where, given.rate, given.seconds))
            rounds[name] = {
                "processor_ms_a_request": processes.each_request(len(times)),
                "first_token": spread([first for first, _ in times]),
                "whole": spread([whole for _, whole in times]),
            }
    added = {
        what: {
            percentile: round(value - rounds["direct"][what][percentile], 1)
            for percentile, value in rounds["through"][what].items()
        }
        for what in ("first_token", "whole")
    }
    print_report("external", {"rate": given.rate, "seconds": given.seconds, "rounds": rounds, "added": added})


if __name__ == "__main__":
    main()
