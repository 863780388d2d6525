"""A server that a webhook, or spans, are sent to: it keeps what came, and answers as it is told."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.http_stub import StubHandler, http_stub


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


Answer = Callable[[StubHandler], None]


def status(code: int, **headers: str) -> Answer:
    def answer(handler: StubHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


class Receiver:
    """Answers the n-th request with the n-th of `answers`, and all beyond with 204."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.received: list[Received] = []
        self.most_at_once: dict[str, int] = {}  # by webhook-id
        self.url = ""
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    def take(self, handler: StubHandler) -> None:
        body = handler.body()
        headers = {name.lower(): value for name, value in handler.headers.items()}
        name = headers.get("webhook-id", "")
        with self._lock:
            answer = self.answers.pop(0) if self.answers else status(204)
            self.received.append(Received(handler.path, headers, body))
            self._open[name] = self._open.get(name, 0) + 1
            self.most_at_once[name] = max(self.most_at_once.get(name, 0), self._open[name])
        try:
            answer(handler)
        except OSError:
            pass  # the sender hung up
        finally:
            with self._lock:
                self._open[name] -= 1


@contextmanager
def receiving(*answers: Answer) -> Iterator[Receiver]:
    receiver = Receiver(*answers)

    class Handler(StubHandler):
        def do_POST(self) -> None:
            receiver.take(self)

        do_GET = do_POST

    with http_stub(Handler) as address:
        receiver.url = f"{address}/votes"
        yield receiver
