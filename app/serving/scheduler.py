"""The scheduler: one thread with an event loop that starts replies in a fair order, and ends them.

Each backend has a subclass that does the generating.
"""

import asyncio
import itertools
import logging
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import uvloop

from app.serving.admission import Admission
from app.serving.reply import FinishReason, Reply
from storage.errors import Busy, NotReady, ThumbloopError

log = logging.getLogger("thumbloop.serving")

T = TypeVar("T")
R = TypeVar("R", bound=Reply)


@dataclass(frozen=True)
class Occupancy:
    """Counts of replies, as of a moment ago. An admitted reply may not have begun yet."""

    running: int
    waiting: int
    admitted: int


class Scheduler(ABC, Generic[R]):
    """Its public methods may be called from any other thread; `begin`, `cancel` and `call` never block."""

    def __init__(self, concurrent: int, admission: Admission) -> None:
        self._concurrent = concurrent
        self._admission = admission
        self._lock = threading.Lock()  # guards `_ended` and with it the loop's end
        self._ended = False
        # The fields below are used in the loop only.
        self._closing = False
        self._waiting: list[R] = []
        self._served: dict[str, int] = {}  # the number of each person's last start; empty without a queue
        self._starts = itertools.count(1)
        self._running: dict[str, R] = {}  # by request id
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="replies", daemon=True)
        self._thread.start()

    def begin(self, reply: R) -> None:
        if not self.call(self._begin, reply):
            self._end(reply, stopping())

    def cancel(self, reply: R) -> None:
        self.call(self._cancel, reply)

    def occupancy(self) -> Occupancy:
        """Read from outside the loop, so a reply that starts or ends right now may be missed."""
        return Occupancy(len(self._running), len(self._waiting), self._admission.admitted())

    def call(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Call the function in the loop; False if the loop has ended."""
        with self._lock:
            if not self._ended:
                self._loop.call_soon_threadsafe(function, *arguments)
            return not self._ended

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine in the loop and wait for its result; raises NotReady if the loop has ended."""
        with self._lock:
            if self._ended:
                work.close()
                raise stopping()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()

    def close(self) -> None:
        """Cancel every reply, stop generating, and end the thread."""
        if self._ended:
            return
        self.run(self._close())
        with self._lock:
            self._ended = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @abstractmethod
    def _start(self, reply: R) -> bool:
        """Start generating the reply; False if there is no room for it now."""

    @abstractmethod
    def _stop(self, reply: R) -> None:
        """Cancel a reply that was started."""

    @abstractmethod
    async def _stop_generating(self) -> None:
        """Free what generates; called once no reply is under way."""

    def _may_start(self, reply: R) -> bool:
        """Whether its version is still loaded."""
        return True

    def _begin(self, reply: R) -> None:
        if self._closing or not self._may_start(reply):
            unloaded = Busy("The model was unloaded before this reply began; send the message again.")
            self._end(reply, stopping() if self._closing else unloaded)
        else:
            self._waiting.append(reply)
            self._schedule()

    def _schedule(self) -> None:
        """Start waiting replies while there is room.

        The person with the fewest replies under way comes first, then the one served longest ago. So ten
        replies of one person delay another person's reply by one, not by ten.
        """
        full: set[str] = set()  # versions whose next reply has to wait
        while len(self._running) < self._concurrent:
            under_way = Counter(reply.request.person for reply in self._running.values())
            waiting = [reply for reply in self._waiting if reply.request.version_id not in full]
            if not waiting:
                break
            reply = min(waiting, key=partial(self._rank, under_way))
            if not self._start(reply):
                full.add(reply.request.version_id)
                continue
            self._waiting.remove(reply)
            self._served[reply.request.person] = next(self._starts)
            if not self._waiting:
                self._served.clear()
            self._running[reply.request.id] = reply
            reply.begin()
        self._say_places()

    def _say_places(self) -> None:
        """Places may still change: others who have fewer replies under way go first."""
        under_way = Counter(reply.request.person for reply in self._running.values())
        for place, reply in enumerate(sorted(self._waiting, key=partial(self._rank, under_way)), 1):
            reply.stream.queue(place, self._admission.seconds_until(place))

    def _rank(self, under_way: Counter[str], reply: R) -> tuple[int, int]:
        return under_way[reply.request.person], self._served.get(reply.request.person, 0)

    def _cancel(self, reply: R) -> None:
        if reply.request.id in self._running:
            self._stop(reply)
        else:
            self._end_waiting("cancelled", lambda waiting: waiting is reply)

    def _end(self, reply: R, outcome: FinishReason | ThumbloopError) -> None:
        # Capacity is released before the reader gets the end, so that its next request finds it.
        request = reply.request
        self._running.pop(request.id, None)
        seconds = None if isinstance(outcome, ThumbloopError) else reply.seconds()
        self._admission.release(request.person, request.version_id, seconds)
        try:
            reply.end(outcome)
        except Exception:  # whatever it is, a reader must not wait for an end that never comes
            log.exception("A reply could not be ended.")
            reply.stream.close(ThumbloopError("The reply could not be ended; see the server's log."))

    def _end_waiting(self, outcome: FinishReason | ThumbloopError, chosen: Callable[[R], bool]) -> None:
        for reply in [one for one in self._waiting if chosen(one)]:
            self._waiting.remove(reply)
            self._end(reply, outcome)

    def _cancel_all(self, chosen: Callable[[R], bool] = lambda _reply: True) -> None:
        self._end_waiting("cancelled", chosen)
        for reply in [one for one in self._running.values() if chosen(one)]:
            self._stop(reply)

    async def _close(self) -> None:
        self._closing = True
        self._cancel_all()
        await self._stop_generating()


def stopping() -> NotReady:
    return NotReady("The server is stopping; send the message again once it is back.")
