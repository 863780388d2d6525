"""OpenAI-compatible servers on loopback whose models and judges follow a script, and fail as asked."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.http_stub import StubHandler, http_stub

Answer = Callable[[dict[str, Any]], str]
# What a fault does instead of an answer.
REFUSED, NO_KEY, TOO_MANY, BROKEN = "400", "401", "429", "500"
CUT, SILENT, RUBBISH = "cut", "silent", "rubbish"


@dataclass
class Script:
    """What the models answer, by the name in the request, and which faults come first for each request.

    A request is known by its body; `faults(body, attempt)` names the fault of its n-th attempt, from 0.
    """

    answers: dict[str, Answer]
    faults: Callable[[dict[str, Any], int], str | None] = lambda _body, _attempt: None
    seconds: float = 0.0
    pace: float = 0.0  # seconds between two pieces of a stream
    sent: list[float] = field(default_factory=list)
    answered: list[dict[str, Any]] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def served(self) -> Iterator[str]:
        """The address of the API, /v1 included."""
        script = self

        class Handler(StubHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # otherwise the body waits 40 ms for the client's delayed ACK

            def do_GET(self) -> None:
                models = [{"id": name, "object": "model"} for name in script.answers]
                script._send(self, 200, {"object": "list", "data": models}, {})

            def do_POST(self) -> None:
                body = json.loads(self.body())
                script.reply(self, body)

        with http_stub(Handler) as address:
            yield f"{address}/v1"

    def reply(self, handler: StubHandler, body: dict[str, Any]) -> None:
        key = json.dumps(body, sort_keys=True)
        with self.lock:
            attempt = self.attempts[key]
            self.attempts[key] += 1
        time.sleep(self.seconds)  # what a model takes; the order of the answers follows from it, no test does
        fault = self.faults(body, attempt)
        if fault in (REFUSED, NO_KEY, TOO_MANY, BROKEN):
            planted = {"error": {"message": f"planted {fault}"}}
            self._send(handler, int(fault), planted, {"retry-after-ms": "1"})
            return
        if fault == SILENT:
            threading.Event().wait(3)
            handler.close_connection = True
            return
        text = "Well, who can say?" if fault == RUBBISH else self.answers[body["model"]](body)
        if body.get("stream"):
            with self.lock:
                self.answered.append(body)
            self._stream(handler, text)
            return
        answer = {
            "object": "chat.completion",
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": len(text.split())},
        }
        if fault == CUT:
            data = json.dumps(answer).encode()
            self._head(handler, 200, len(data), {})
            handler.wfile.write(data[: len(data) // 2])
            handler.close_connection = True
            return
        with self.lock:
            self.answered.append(body)
        self._send(handler, 200, answer, {})

    def _stream(self, handler: StubHandler, text: str) -> None:
        """Word by word; `sent` has the times at which they left."""
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        pieces = re.findall(r"\s*\S+", text)
        for number, piece in enumerate(pieces, 1):
            choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
            if number == len(pieces):
                choice["finish_reason"] = "stop"
            data = json.dumps({"object": "chat.completion.chunk", "choices": [choice]})
            try:
                handler.wfile.write(f"data: {data}\n\n".encode())
            except OSError:  # the reply was stopped
                return
            self.sent.append(time.time())
            time.sleep(self.pace)
        handler.wfile.write(b"data: [DONE]\n\n")

    def _send(self, handler: StubHandler, status: int, content: Any, headers: dict[str, str]) -> None:
        data = json.dumps(content).encode()
        self._head(handler, status, len(data), headers)
        handler.wfile.write(data)

    def _head(self, handler: StubHandler, status: int, length: int, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(length),
            **headers,
        }.items():
            handler.send_header(name, value)
        handler.end_headers()


def asked(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def rated_texts(body: dict[str, Any]) -> list[str]:
    """The replies in a question of the shipped rubrics: one, or the left and the right one."""
    question = str(body["messages"][0]["content"])
    return [text.strip() for text in re.findall(r"<reply(?:_[AB])?>\n(.*?)\n</reply", question, re.DOTALL)]


def prefers_short(body: dict[str, Any]) -> str:
    """A judge: up to 10 words are 5, each ten more one less; of two replies the shorter one wins."""
    lengths = [len(text.split()) for text in rated_texts(body)]
    if len(lengths) == 2:
        left, right = lengths
        winner = "tie" if left == right else "A" if left < right else "B"
        return json.dumps({"reason": "Short is good.", "winner": winner})
    return json.dumps({"reason": "Short is good.", "rating": max(1, 5 - (lengths[0] - 1) // 10)})
