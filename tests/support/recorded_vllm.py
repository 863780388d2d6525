"""A stand-in for vLLM on loopback: its routes and answers as vLLM 0.32 was recorded to give them.

It generates nothing: every reply is the same words, spelled by the model's own name. Beyond that it
misbehaves as it is told, in ways that a real server cannot be made to on demand.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.support.http_stub import StubHandler, http_stub

KEY = "sekret-of-the-server"
MODEL = "tiny"
WORDS = ["One", " two", " three", " four", " five"]

Answer = Callable[["Handler", dict[str, Any]], None]


class Handler(StubHandler):
    """One request; `Recorded` is what it is asked of."""

    protocol_version = "HTTP/1.1"
    recorded: "Recorded"

    def do_GET(self) -> None:
        self.recorded.answer(self, json.loads(self.body() or "{}"))

    do_POST = do_GET

    def say(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        text = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def begin_events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def write(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def event(self, data: object) -> None:
        self.write(f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n")

    def end_events(self) -> None:
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")


class Recorded:
    """The n-th chat completion is answered by the n-th of `script`, and all beyond as it should be.

    `tokenise` gives the ids of a conversation, or of a text.
    """

    def __init__(self, tokenise: Callable[[Any], list[int]], loads: bool, owner: str) -> None:
        self.script: list[Answer] = []
        self.asked: list[dict[str, Any]] = []  # bodies of chat completions
        self.adapters: dict[str, str] = {}
        self.calls: list[str] = []  # every path
        self.keys: list[str | None] = []  # the Authorization header of every call
        self.released = threading.Event()  # ends what hangs
        self.hung_up = threading.Event()  # a client left a stream
        self._tokenise = tokenise
        self._loads = loads
        self._owner = owner
        self.url = ""

    def answer(self, handler: Handler, body: dict[str, Any]) -> None:
        self.calls.append(handler.path)
        self.keys.append(handler.headers["Authorization"])
        if handler.headers["Authorization"] != f"Bearer {KEY}":
            handler.say(401, {"error": "Unauthorized"})
        elif handler.path == "/v1/models":
            handler.say(200, {"object": "list", "data": self._cards()})
        elif handler.path == "/v1/load_lora_adapter" and self._loads:
            self._load(handler, body["lora_name"], body["lora_path"])
        elif handler.path == "/v1/unload_lora_adapter" and self._loads:
            self._unload(handler, body["lora_name"])
        elif handler.path == "/v1/chat/completions":
            self.asked.append(body)
            answer = self.script.pop(0) if self.script else self.complete
            try:
                answer(handler, body)
            except OSError:
                self.hung_up.set()
        else:
            handler.say(404, {"detail": "Not Found"})

    def _cards(self) -> list[dict[str, Any]]:
        base = {"id": MODEL, "object": "model", "owned_by": self._owner, "parent": None, "max_model_len": 512}
        shared = {"object": "model", "owned_by": self._owner, "parent": MODEL}
        return [base, *({"id": name} | shared for name in self.adapters)]

    def _load(self, handler: Handler, name: str, path: str) -> None:
        if not name or not path:
            message = "Both 'lora_name' and 'lora_path' must be provided."
            handler.say(400, error(message, "InvalidUserInput", 400))
        elif name in self.adapters:
            message = f"The lora adapter '{name}' has already been loaded. If you want to load the adapter "
            message += "in place, set 'load_inplace' to True."
            handler.say(400, error(message, "InvalidUserInput", 400))
        elif path.endswith("unseen"):
            message = f"Loading lora {name} failed: No adapter found for {path}"
            handler.say(404, error(message, "NotFoundError", 404))
        elif path.endswith("rank"):
            message = "Call to add_lora method failed: Worker failed with error 'LoRA rank 64 is greater "
            message += "than max_lora_rank 16.', please check the stack trace above for the root cause"
            handler.say(500, error(message, "InternalServerError", 500))
        else:
            self.adapters[name] = path
            handler.say(200, f"Success: LoRA adapter '{name}' added successfully.")

    def _unload(self, handler: Handler, name: str) -> None:
        if self.adapters.pop(name, None) is None:
            handler.say(404, error(f"The lora adapter '{name}' cannot be found.", "NotFoundError", 404))
        else:
            handler.say(200, f"Success: LoRA adapter '{name}' removed successfully.")

    def complete(self, handler: Handler, body: dict[str, Any], *, words: list[str] | None = None) -> None:
        """A whole reply: the name of the model, then the words, as far as max_tokens goes."""
        model = body["model"]
        if model != MODEL and model not in self.adapters:
            message = f"The model `{model}` does not exist. Valid aliases: {MODEL}."
            handler.say(404, error(message, "NotFoundError", 404, param="model"))
            return
        handler.begin_events()
        prompt = self._tokenise(body["messages"])
        first = chunk(model, {"role": "assistant", "content": ""})
        handler.event(first | ({"prompt_token_ids": prompt} if body.get("return_token_ids") else {}))
        text = [f"{model}:", *(words or WORDS)]
        sent = text[: body["max_tokens"]]
        for number, word in enumerate(sent, 1):
            last = number == len(sent)
            reason = ("length" if len(text) > len(sent) else "stop") if last else None
            piece = chunk(model, {"content": word}, reason)
            if body.get("return_token_ids"):
                piece["choices"][0]["token_ids"] = self._tokenise(word)
            handler.event(piece)
        made = len(sent)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": made, "total_tokens": len(prompt) + made}
        handler.event({**chunk(model, {}), "choices": [], "usage": usage})
        handler.end_events()

    def hang(self, handler: Handler, body: dict[str, Any]) -> None:
        """No answer at all."""
        self.released.wait()

    def hang_after(self, count: int) -> Answer:
        """That many words, and then nothing but pings until the client has left."""

        def answer(handler: Handler, body: dict[str, Any]) -> None:
            begin(handler, body, count)
            while not self.released.wait(0.01):
                handler.write(": ping\n\n")

        return answer

    def slowly(self, pause: float) -> Answer:
        """All the words, each after that many seconds."""

        def answer(handler: Handler, body: dict[str, Any]) -> None:
            handler.begin_events()
            for word in WORDS:
                self.released.wait(pause)
                handler.event(chunk(body["model"], {"content": word}, "stop" if word == WORDS[-1] else None))
            handler.end_events()

        return answer


def status(code: int, body: object, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, _body: handler.say(code, body, named)


def begin(handler: Handler, body: dict[str, Any], count: int) -> None:
    """The first `count` words of a reply."""
    handler.begin_events()
    for word in WORDS[:count]:
        handler.event(chunk(body["model"], {"content": word}))


def cut_after(count: int) -> Answer:
    """That many words, and then the connection breaks."""

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        begin(handler, body, count)
        handler.close_connection = True
        handler.connection.close()

    return answer


def die_after(count: int) -> Answer:
    """That many words, and then what vLLM says when its engine has died."""

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        begin(handler, body, count)
        message = "EngineCore encountered an issue. See stack trace (above) for the root cause."
        handler.event(error(message, "InternalServerError", 500))
        handler.end_events()

    return answer


def error(message: str, kind: str, code: int, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def chunk(model: str, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}
    return {**head, "model": model, "choices": [choice]}


@contextmanager
def recorded_vllm(
    tokenise: Callable[[Any], list[int]], *, loads: bool = True, owner: str = "vllm", port: int = 0
) -> Iterator[Recorded]:
    recorded = Recorded(tokenise, loads, owner)
    with http_stub(type("Bound", (Handler,), {"recorded": recorded}), port) as address:
        recorded.url = f"{address}/v1"
        try:
            yield recorded
        finally:
            recorded.released.set()
