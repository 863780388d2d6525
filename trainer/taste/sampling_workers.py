"""A process that samples a part of the replies, since one process alone keeps one CPU core busy.

Each step of a small model has Python in it, which threads of one process cannot run at once.
"""

import logging
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol

from trainer.launch.environment import keep_freed_memory

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5


class Generates(Protocol):
    """What a worker makes of what it is given: a sampler."""

    def generate(self, shares: Any, progress: Callable[[int], None], /) -> list[Any]: ...


class SamplingWorker:
    """A process with a sampler of its own, which `make` returns there. It ends with this one, or by `end`."""

    def __init__(self, make: Callable[[], Generates]) -> None:
        context = get_context("spawn")  # a fork would take locks of torch's threads with it
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        self.process.start()
        theirs.close()
        self.done = 0  # replies of the present shares
        self._waits = False
        self._found: list[Any] | Exception | None = None

    def begin(self, shares: Any) -> "SamplingWorker":
        """Let it sample these shares, without waiting for it."""
        self.done, self._waits, self._found = 0, True, None
        try:
            self._connection.send(shares)
        except OSError as error:
            self._lose(error)
        return self

    def look(self, seconds: float = 0.0) -> int:
        """How many replies of its shares it has; waits up to `seconds` for news."""
        try:
            while self._waits and self._connection.poll(seconds):
                news, seconds = self._connection.recv(), 0.0
                if isinstance(news, int):
                    self.done = news
                else:
                    self._found, self._waits = news, False
        except (EOFError, OSError) as error:
            self._lose(error)
        return self.done

    def wait(self, progress: Callable[[], None]) -> list[Any] | None:
        """Its replies, or None if it died; `progress` is called meanwhile. Raises RuntimeError of a model."""
        while self._waits:
            self.look(POLL_SECONDS)
            progress()
        if isinstance(self._found, Exception):
            raise RuntimeError(str(self._found)) from self._found
        return self._found

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self._connection.close()

    def _lose(self, error: Exception) -> None:
        self._waits = False
        log.warning("A process that samples replies has ended (%r); this one samples its part.", error)


def _serve(connection: Connection, make: Callable[[], Generates]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the process that waits for this one
    keep_freed_memory()
    try:
        sampler = make()
        while True:
            shares = connection.recv()
            try:
                connection.send(sampler.generate(shares, connection.send))
            except (RuntimeError, ValueError) as error:
                connection.send(error)
    except (EOFError, OSError):
        return  # nobody waits any more, in whatever way the other process went
