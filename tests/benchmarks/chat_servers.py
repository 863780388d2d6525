"""Streams over HTTP: what clients of a server with OpenAI's protocol see, whoever made the server.

Starts ours and transformers' own on the same model; knows neither's insides.
"""

import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.benchmarks.report import server_with
from tests.support.live_server import wait_until

Conversation = list[dict[str, str]]


@dataclass
class ChatServer:
    """`process` is the server, whose processor time counts."""

    url: str
    model: str
    process: psutil.Process
    headers: dict[str, str] = field(default_factory=dict)

    def at_once(self, conversations: Sequence[Conversation], tokens: int) -> dict[str, Any]:
        """All of them at the same moment, greedy, a connection and a thread each."""
        replies = [_Reply(self, conversation, tokens) for conversation in conversations]
        used, began = self._processor_seconds(), time.perf_counter()
        threads = [threading.Thread(target=reply.read) for reply in replies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed, used = time.perf_counter() - began, self._processor_seconds() - used
        made = sum(reply.tokens for reply in replies)
        firsts = [reply.arrivals[0] - began for reply in replies]
        gaps = sorted(b - a for reply in replies for a, b in itertools.pairwise(reply.arrivals))
        return {
            "streams": len(replies),
            "tokens": made,
            "tokens_per_s": round(made / elapsed, 1),
            "tokens_per_cpu_s": round(made / used, 1),
            "first_token_s_median": round(statistics.median(firsts), 3),
            "first_token_s_worst": round(max(firsts), 3),
            "gap_ms_p50": round(1000 * gaps[len(gaps) // 2], 1),
            "gap_ms_p99": round(1000 * gaps[len(gaps) * 99 // 100], 1),
        }

    def _processor_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


class _Reply:
    """One streamed reply as its client sees it; `tokens` as the server counts them."""

    def __init__(self, server: ChatServer, conversation: Conversation, tokens: int) -> None:
        self.arrivals: list[float] = []
        self.tokens = 0
        self._server = server
        # Made beforehand: it reads its certificates, and sixteen do so for 0.4 s of the processor's time.
        self._client = httpx.Client(headers=server.headers, timeout=300)
        self._body = {
            "model": server.model,
            "messages": conversation,
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def read(self) -> None:
        url = f"{self._server.url}/v1/chat/completions"
        with self._client, self._client.stream("POST", url, json=self._body) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    self._take(json.loads(line.removeprefix("data: ")))

    def _take(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            raise RuntimeError(f"{self._server.url} answered {chunk['error']}")
        if any(choice["delta"].get("content") for choice in chunk["choices"]):
            self.arrivals.append(time.perf_counter())
        if chunk.get("usage"):
            self.tokens = chunk["usage"]["completion_tokens"]


@contextmanager
def thumbloop_serve(model: Path, precision: str) -> Iterator[ChatServer]:
    with server_with(model=model, precision=precision, max_new_tokens=512) as server:
        server.start()
        headers = {"Authorization": f"Bearer {server.token()}"}
        yield ChatServer(server.url, "deployed", psutil.Process(server.process.pid), headers)


@contextmanager
def transformers_serve(model: Path, dtype: str, folder: Path, *options: str) -> Iterator[ChatServer]:
    """As it is installed; it logs to `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "hub").mkdir(exist_ok=True)  # it lists what is in there
    log = folder / "transformers.log"
    program = str(Path(sys.executable).with_name("transformers"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program,
                "serve",
                str(model),
                "--port",
                str(port),
                "--dtype",
                dtype,
                "--device",
                "cpu",
                *options,
            ],
            stdout=output,
            stderr=output,
            env={**os.environ, "HF_HOME": str(folder)},
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(f"{url}/health"), 120, log.read_text)
        yield ChatServer(url, str(model), psutil.Process(process.pid))
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False
