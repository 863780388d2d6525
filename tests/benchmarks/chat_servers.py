"""Streams over HTTP: what clients of a server with OpenAI's protocol see, whoever made the server.

Starts ours and transformers' own on the same model; knows neither's insides.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.benchmarks.report import arrival_figures, server_with, speed
from tests.support.live_server import at_once
from tests.support.transformers_server import transformers_serve

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
        at_once(len(replies), lambda number: replies[number].read())
        elapsed, used = time.perf_counter() - began, self._processor_seconds() - used
        made = sum(reply.tokens for reply in replies)
        firsts = [reply.arrivals[0] - began for reply in replies]
        figures = arrival_figures(firsts, [reply.arrivals for reply in replies])
        return {"streams": len(replies), "tokens": made, **speed(made, elapsed, used), **figures}

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
def transformers_server(model: Path, dtype: str, folder: Path, *options: str) -> Iterator[ChatServer]:
    with transformers_serve(model, folder, "--dtype", dtype, *options) as (url, process):
        yield ChatServer(url, str(model), process)
