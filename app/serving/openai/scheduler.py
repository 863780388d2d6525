"""Replies by an external server while they wait and run: let through in a fair order, cancelled, ended.

One thread with an event loop. Knows no server and no model.
"""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop

from app.serving.backend import FinishReason, Occupancy, ServedVersion, stopping
from app.serving.fair_queue import FairQueue
from app.serving.openai.reply import ExternalReply, broken_off
from storage.errors import ThumbloopError

log = logging.getLogger("thumbloop.serving")

T = TypeVar("T")


@dataclass(eq=False)
class Held:
    """A version that the server can reply by."""

    version: ServedVersion
    model: str  # its name there
    places: int = 0  # taken by replies, begun or not
    repairing: asyncio.Lock = field(default_factory=asyncio.Lock)


Generate = Callable[[Held, ExternalReply], Coroutine[Any, Any, FinishReason]]


class ExternalDesk:
    """Its methods may be called from any other thread; `begin` and `cancel` only leave word.

    `over` is told of each reply that ended: its version, its person, and how many seconds it ran, if it did.
    """

    def __init__(
        self, at_once: int, generate: Generate, over: Callable[[Held, str, float | None], object]
    ) -> None:
        self._at_once = at_once
        self._generate = generate
        self._over = over
        self._lock = threading.Lock()  # guards `_gone` and with it the loop's end
        self._gone = False
        # What follows is the loop's alone.
        self._line: FairQueue[tuple[Held, ExternalReply]] = FairQueue()
        self._running: dict[ExternalReply, asyncio.Task[FinishReason]] = {}
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="replies", daemon=True)
        self._thread.start()

    def begin(self, held: Held, reply: ExternalReply) -> None:
        if not self._tell(self._begin, held, reply):
            self._turn_away(held, reply)

    def cancel(self, reply: ExternalReply) -> None:
        self._tell(self._cancel, reply)

    def occupancy(self) -> Occupancy:
        return Occupancy(len(self._running), len(self._line))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of other work in the loop, after waiting for it; raises NotReady once it has ended."""
        with self._lock:
            if self._gone:
                work.close()
                raise stopping()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()

    def close(self, last: Coroutine[Any, Any, object]) -> None:
        """Cancel every reply, do the last work, and end the thread."""

        async def end() -> None:
            for held, reply in self._line.leave(lambda _turn: True):
                self._leave(held, reply)
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await last
            if self._thread is not None:
                await asyncio.get_running_loop().shutdown_asyncgens()

        with self._lock:
            if self._gone:
                last.close()
                return
            self._gone = True
        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _tell(self, call: Callable[..., object], *arguments: Any) -> bool:
        """Let the loop make the call; False if it has ended."""
        with self._lock:
            if not self._gone:
                self._loop.call_soon_threadsafe(call, *arguments)
            return not self._gone

    def _begin(self, held: Held, reply: ExternalReply) -> None:
        if self._gone:
            self._turn_away(held, reply)
        else:
            self._line.join(reply.request.person, (held, reply))
            self._admit()

    def _admit(self) -> None:
        while len(self._running) < self._at_once and len(self._line):
            turn = self._line.in_turn(Counter(reply.request.person for reply in self._running))[0]
            self._line.take_turn(turn)
            held, reply = turn
            task = self._running[reply] = self._loop.create_task(self._generate(held, reply))
            task.add_done_callback(lambda task, held=held, reply=reply: self._end(held, reply, task))  # type: ignore[misc]

    def _cancel(self, reply: ExternalReply) -> None:
        if reply in self._running:
            self._running[reply].cancel()
        for held, _ in self._line.leave(lambda turn: turn[1] is reply):
            self._leave(held, reply)

    def _end(self, held: Held, reply: ExternalReply, task: asyncio.Task[FinishReason]) -> None:
        # The place is free before the reader knows of the end, so that who asks next finds it.
        del self._running[reply]
        self._over(held, reply.request.person, reply.seconds())
        if task.cancelled():
            reply.finish("cancelled")
        elif isinstance(error := task.exception(), ThumbloopError):
            reply.stream.fail(error)
        elif error is not None:
            log.error("A reply by %s failed.", held.version.name, exc_info=error)
            reply.stream.fail(broken_off())
        else:
            reply.finish(task.result())
        self._admit()

    def _leave(self, held: Held, reply: ExternalReply) -> None:
        self._over(held, reply.request.person, None)
        reply.finish("cancelled")

    def _turn_away(self, held: Held, reply: ExternalReply) -> None:
        self._over(held, reply.request.person, None)
        reply.stream.fail(stopping())
