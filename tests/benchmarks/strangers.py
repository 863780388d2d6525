"""What strangers can make the server spend: each route without a sign-in, and a flood of wrong passwords.

Every wrong sign-in has a name and an address of its own, so only the pool and its queue bound them.
Meanwhile a person with a token asks who they are, and a health check goes on. The model is tiny.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import psutil

from storage.people.tokens import PREFIX
from tests.benchmarks.report import print_report, server_with
from tests.support.live_server import LiveServer
from tests.support.tiny_model import build_tiny_model

MB = 1024 * 1024
UNKNOWN = f"{PREFIX}{'x' * 43}"
BEARER = {"Authorization": f"Bearer {UNKNOWN}"}
LONG_BODY = b'{"title": "' + b"x" * (4 * MB - 100) + b'"}'
ROUTES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "GET /healthz": ("GET", "/healthz", {}),
    "GET /readyz": ("GET", "/readyz", {}),
    "GET /docs": ("GET", "/docs", {}),
    "GET /openapi.json": ("GET", "/openapi.json", {}),
    "GET /": ("GET", "/", {}),
    "GET /login": ("GET", "/login", {}),
    "POST /login, name too long": ("POST", "/login", {"data": {"name": "x" * 200, "password": "x"}}),
    "GET /admin?token=, unknown": ("GET", f"/admin?token={UNKNOWN}", {}),
    "POST /logout, unknown session": ("POST", "/logout", {"cookies": {"thumbloop_session": UNKNOWN}}),
    "GET /sessions": ("GET", "/sessions", {}),
    "GET /metrics, unknown token": ("GET", "/metrics", {"headers": BEARER}),
    "GET /api/v1/me, unknown token": ("GET", "/api/v1/me", {"headers": BEARER}),
    "POST /api/v1/chats, 4 MB, unknown token": (
        "POST",
        "/api/v1/chats",
        {"headers": BEARER, "content": LONG_BODY},
    ),
    "GET /nothing": ("GET", "/nothing", {}),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--requests", type=int, default=100, help="of each route")
    arguments.add_argument("--sign-ins", type=int, default=150, help="wrong ones at once")
    arguments.add_argument("--seconds", type=float, default=30)
    given = arguments.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="thumbloop-bench-") as folder,
        server_with(auth="accounts", model=str(build_tiny_model(Path(folder) / "tiny"))) as server,
    ):
        server.start(wait=False)
        server.wait_ready(300)
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        routes = {name: cost(server, process, route, given.requests) for name, route in ROUTES.items()}
        flood = wrong_sign_ins(server, process, given.sign_ins, given.seconds)
    print_report("strangers", {"routes": routes, "wrong sign-ins": flood})


def cost(
    server: LiveServer, process: psutil.Process, route: tuple[str, str, dict[str, Any]], requests: int
) -> dict[str, Any]:
    method, path, options = route
    with httpx.Client(base_url=server.url, timeout=60, cookies=options.get("cookies")) as client:
        options = {name: value for name, value in options.items() if name != "cookies"}
        status = client.request(method, path, **options).status_code
        memory, cpu = process.memory_info().rss, sum(process.cpu_times()[:2])
        for _ in range(requests):
            client.request(method, path, **options)
        return {
            "status": status,
            "cpu_ms": round(1000 * (sum(process.cpu_times()[:2]) - cpu) / requests, 2),
            "memory_growth_mb": round((process.memory_info().rss - memory) / MB, 1),
        }


def wrong_sign_ins(
    server: LiveServer, process: psutil.Process, parallel: int, seconds: float
) -> dict[str, Any]:
    before = peak = process.memory_info().rss
    times: dict[str, list[float]] = {"/api/v1/me": [], "/healthz": []}
    with server.client() as client, ProcessPoolExecutor(1, get_context("spawn")) as attackers:
        client.get("/api/v1/me")
        answers = attackers.submit(attack, server.url, parallel, seconds)
        while not answers.done():
            for path, taken in times.items():
                began = time.monotonic()
                client.get(path).raise_for_status()
                taken.append(time.monotonic() - began)
                peak = max(peak, process.memory_info().rss)
            time.sleep(0.05)
        return {
            "parallel": parallel,
            "seconds": seconds,
            "answers": answers.result(),
            **{path: shown(taken) for path, taken in times.items()},
            "memory_growth_mb": round((peak - before) / MB, 1),
        }


def attack(url: str, parallel: int, seconds: float) -> dict[int, int]:
    """The statuses of wrong sign-ins, 0 for a broken connection. In a process of low priority: the attackers
    would be on other machines.
    """
    os.nice(15)
    return dict(asyncio.run(_attack(url, parallel, seconds)))


async def _attack(url: str, parallel: int, seconds: float) -> Counter[int]:
    answers: Counter[int] = Counter()
    numbers = itertools.count()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        end = time.monotonic() + seconds

        async def one() -> None:
            while time.monotonic() < end:
                number = next(numbers)
                address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
                form = {"name": f"nobody {number}", "password": "wrong horse"}
                try:
                    answer = await client.post("/login", data=form, headers={"X-Forwarded-For": address})
                except httpx.TransportError:  # such as an idle connection that the server has just closed
                    answers[0] += 1
                else:
                    answers[answer.status_code] += 1

        await asyncio.gather(*(one() for _ in range(parallel)))
    return answers


def shown(times: list[float]) -> dict[str, float]:
    return {
        "requests": len(times),
        "p50_s": round(statistics.median(times), 3),
        "p95_s": round(statistics.quantiles(times, n=20)[-1], 3),
        "max_s": round(max(times), 3),
    }


if __name__ == "__main__":
    main()
