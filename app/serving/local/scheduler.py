"""The desk: one thread that sees to all replies while they wait and run.

It admits them to their engines in a fair order, hands tokens to their streams, ends them, and puts a
new engine in the place of one that died. Knows no tokenizer, no model and no database.
"""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.serving.backend import FinishReason, Occupancy, ServedVersion, stopping, unloaded
from app.serving.fair_queue import FairQueue
from app.serving.local.engine import Engine, Update
from app.serving.local.reply import Reply
from app.serving.local.slot import Trial
from storage.errors import ThumbloopError

log = logging.getLogger("thumbloop.serving")

WATCH_SECONDS = 0.25  # how soon a dead engine is noticed when it told nobody
RETRY_SECONDS = 5.0  # until an engine that could not be built is tried again


@dataclass(eq=False)
class Slot:
    """A version that can reply. `engine` is None while a new one takes the place of a dead one."""

    version: ServedVersion
    model: Any
    trial: Trial
    engine: Engine | None = None
    places: int = 0  # taken by replies, begun or not
    running: dict[str, Reply] = field(default_factory=dict)  # by request id


class Desk:
    """Its methods may be called from any thread and only leave word, except `shut` and `close`.

    `over` is told of each reply that ended: its slot, its person, and how many seconds it ran, if it did.
    """

    def __init__(
        self,
        at_once: int,
        make_engine: Callable[[Slot], Engine],
        over: Callable[[Slot, str, float | None], object],
    ) -> None:
        self._at_once = at_once
        self._make_engine = make_engine
        self._over = over
        self._lock = threading.Lock()  # guards `_gone` and with it the loop's end
        self._gone = False
        # What follows is the loop's alone.
        self._slots: list[Slot] = []
        self._line: FairQueue[tuple[Slot, Reply]] = FairQueue()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="replies", daemon=True)
        self._thread.start()

    def open(self, slot: Slot) -> None:
        """Watch over the slot from now on."""
        self._tell(self._slots.append, slot)

    def shut(self, slot: Slot) -> None:
        """Free a slot, cutting off what replies by it; waits until its engine has stopped."""
        gone = threading.Event()
        if self._tell(self._shut, slot, gone):
            gone.wait()
        if slot.engine is not None:
            slot.engine.stop()

    def begin(self, slot: Slot, reply: Reply) -> None:
        if not self._tell(self._begin, slot, reply):
            self._turn_away(slot, reply)

    def cancel(self, slot: Slot, reply: Reply) -> None:
        self._tell(self._cancel, slot, reply)

    def take(self, slot: Slot, updates: list[Update]) -> None:
        """News from the slot's engine."""
        self._tell(self._take, slot, updates)

    def occupancy(self) -> Occupancy:
        """Read beside the desk's thread, so what comes or goes right then may be missed."""
        return Occupancy(sum(len(slot.running) for slot in list(self._slots)), len(self._line))

    def close(self) -> None:
        """Cancel every reply, stop every engine, and end the thread."""
        slots: list[Slot] = []
        closed = threading.Event()
        if self._tell(self._close, slots, closed):
            closed.wait()
        for slot in slots:
            if slot.engine is not None:
                slot.engine.stop()
        with self._lock:
            if not self._gone:
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._gone = True
        self._thread.join()

    def _tell(self, call: Callable[..., object], *arguments: Any) -> bool:
        """Let the desk's thread make the call; False if it has ended."""
        with self._lock:
            if not self._gone:
                self._loop.call_soon_threadsafe(call, *arguments)
            return not self._gone

    def _run(self) -> None:
        self._loop.call_soon(self._watch)
        self._loop.run_forever()
        self._loop.close()

    def _begin(self, slot: Slot, reply: Reply) -> None:
        if self._closed or slot not in self._slots:
            self._turn_away(slot, reply)
        else:
            self._line.join(reply.request.person, (slot, reply))
            self._admit()

    def _admit(self) -> None:
        """Give waiting replies to their engines, as far as those have room."""
        full: list[Slot] = []  # whose next reply has to wait: none may overtake it
        while turn := self._next(full):
            slot, reply = turn
            request = reply.request
            if slot.engine is not None and slot.engine.submit(
                request.id, request.prompt, request.limit, reply.sampler
            ):
                self._line.take_turn(turn)
                slot.running[request.id] = reply
                reply.begin()
            else:
                full.append(slot)

    def _next(self, full: list[Slot]) -> tuple[Slot, Reply] | None:
        running = [reply.request.person for slot in self._slots for reply in slot.running.values()]
        if len(running) >= self._at_once:
            return None
        turns = self._line.in_turn(Counter(running))
        return next((turn for turn in turns if turn[0] not in full), None)

    def _take(self, slot: Slot, updates: list[Update]) -> None:
        for update in updates:
            reply = slot.running.get(update.request_id)
            if reply is None:
                continue  # it ended before this news arrived
            try:
                reason = None if update.error is not None else reply.take(update.tokens)
                if update.last and reason is None:
                    reason = "stop"  # nothing more will come, whatever ended it: no reader may wait on
            except Exception as error:
                log.exception("A reply by %s failed.", slot.version.name)
                self._fail(slot, reply, f"{type(error).__name__}: {error}", over=update.last)
                continue
            if update.error is not None:
                self._fail(slot, reply, update.error, over=update.last)
            elif reason is not None:
                self._end(slot, reply, reason, over=update.last)
        self._check(slot)
        self._admit()

    def _cancel(self, slot: Slot, reply: Reply) -> None:
        if reply.request.id in slot.running:
            self._end(slot, reply, "cancelled", over=False)
            self._admit()
        elif self._line.leave(lambda turn: turn[1] is reply):
            self._over(slot, reply.request.person, None)
            reply.finish("cancelled")

    def _end(self, slot: Slot, reply: Reply, reason: FinishReason, *, over: bool) -> None:
        # The place is free before the reader knows of the end, so that who asks next finds it.
        del slot.running[reply.request.id]
        if slot.engine is not None:
            slot.engine.drop(reply.request.id, over=over)
        self._over(slot, reply.request.person, reply.seconds())
        reply.finish(reason)

    def _fail(self, slot: Slot, reply: Reply, why: str, *, over: bool) -> None:
        log.error("A reply by %s failed: %s", slot.version.name, why)
        del slot.running[reply.request.id]
        if slot.engine is not None:
            slot.engine.drop(reply.request.id, over=over)
        self._over(slot, reply.request.person, None)
        reply.stream.fail(_failed(why))

    def _turn_away(self, slot: Slot, reply: Reply) -> None:
        self._over(slot, reply.request.person, None)
        reply.stream.fail(stopping() if self._closed else unloaded())

    def _watch(self) -> None:
        for slot in self._slots:
            self._check(slot)
        self._admit()
        self._loop.call_later(WATCH_SECONDS, self._watch)

    def _check(self, slot: Slot) -> None:
        """Replace an engine that died; what it was generating fails, and what waits goes on waiting."""
        engine = slot.engine
        if slot not in self._slots or engine is None or engine.failure is None:
            return  # a slot that was shut, or all of them, has an engine that was stopped
        why = engine.failure
        log.error("The engine of %s died and is replaced: %s", slot.version.name, why)
        slot.engine = None
        for reply in list(slot.running.values()):
            self._fail(slot, reply, why, over=True)
        self._rebuild(slot, engine)

    def _rebuild(self, slot: Slot, dead: Engine | None = None) -> None:
        def build() -> None:
            engine = None
            try:
                if dead is not None:
                    dead.stop()
                engine = self._make_engine(slot)
            except Exception:
                log.exception("%s has no engine; trying again.", slot.version.name)
            if not self._tell(self._rebuilt, slot, engine) and engine is not None:
                engine.stop()

        threading.Thread(target=build, name="rebuild", daemon=True).start()

    def _rebuilt(self, slot: Slot, engine: Engine | None) -> None:
        if slot not in self._slots:
            if engine is not None:
                threading.Thread(target=engine.stop, daemon=True).start()
            return
        slot.engine = engine
        if engine is None:
            for _, reply in self._line.leave(lambda turn: turn[0] is slot):
                self._over(slot, reply.request.person, None)
                reply.stream.fail(_failed("the model cannot be started"))
            self._loop.call_later(RETRY_SECONDS, self._rebuild, slot)
        self._admit()

    def _shut(self, slot: Slot, gone: threading.Event) -> None:
        if slot in self._slots:
            self._cut_off(slot)
            self._slots.remove(slot)
        gone.set()

    def _close(self, slots: list[Slot], closed: threading.Event) -> None:
        self._closed = True
        for slot in self._slots:
            self._cut_off(slot)
        slots += self._slots
        self._slots = []
        closed.set()

    def _cut_off(self, slot: Slot) -> None:
        for _, reply in self._line.leave(lambda turn: turn[0] is slot):
            self._over(slot, reply.request.person, None)
            reply.finish("cancelled")
        for reply in list(slot.running.values()):
            self._end(slot, reply, "cancelled", over=False)


def _failed(why: str) -> ThumbloopError:
    return ThumbloopError(
        f"The model failed during this reply ({why}); ask for it again. The server's log has the details.",
        code="generation_failed",
    )
