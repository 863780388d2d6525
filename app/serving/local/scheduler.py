"""The local scheduler: submits replies to the engines, passes on their tokens, and replaces dead engines."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.serving.admission import Admission
from app.serving.backend import ServedVersion
from app.serving.reply import FinishReason, Reply, ReplyStream, Request
from app.serving.scheduler import Scheduler, stopping
from app.serving.text import Detokeniser
from storage.errors import NotReady, ThumbloopError
from trainer.generation.engine import Engine, Update
from trainer.generation.sampling import Sampler
from trainer.generation.trial import Trial

log = logging.getLogger("thumbloop.serving")

CHECK_SECONDS = 0.25  # between two checks for an engine that died silently
RETRY_SECONDS = 5.0  # before another attempt to build an engine


@dataclass(eq=False)
class Slot:
    """A version that can reply. `engine` is None while a dead one is being replaced."""

    version: ServedVersion
    model: Any
    trial: Trial
    engine: Engine | None = None


class LocalReply(Reply):
    """One reply by a model in this process: turns its token ids into text for its stream."""

    def __init__(
        self, request: Request, stream: ReplyStream, tokenizer: Any, end_ids: frozenset[int]
    ) -> None:
        super().__init__(request, stream)
        sampling = request.sampling
        self.sampler = Sampler(sampling.temperature, sampling.top_p, sampling.seed)
        self._text = Detokeniser(tokenizer)
        self._end_ids = end_ids

    def take(self, tokens: Sequence[int]) -> FinishReason | None:
        """Pass on the new part of all `tokens` so far; returns why the reply ends, None if it goes on."""
        for token in tokens[len(self._token_ids) :]:
            self._note_token()
            self._token_ids.append(token)
            if token in self._end_ids:
                return "stop"
            self._add(self._text.add(token))
            if self._stops.found:
                return "stop"
        return "length" if len(self._token_ids) >= self.request.limit else None

    def _rest(self) -> str:
        return self._text.flush()


class LocalScheduler(Scheduler[LocalReply]):
    """Starts replies on the engines of open slots."""

    def __init__(self, concurrent: int, admission: Admission, make_engine: Callable[[Slot], Engine]) -> None:
        super().__init__(concurrent, admission)
        self._make_engine = make_engine
        self._slots: dict[str, Slot] = {}  # by version id; used in the loop only
        self.call(self._watch)

    def open(self, slot: Slot) -> None:
        """Accept replies for this slot; raises NotReady while the server stops."""

        async def add() -> None:
            if self._closing:
                raise stopping()
            self._slots[slot.version.id] = slot

        self.run(add())

    def shut(self, slot: Slot) -> None:
        """Cancel a slot's replies and stop its engine, waiting until it has stopped."""

        async def remove() -> None:
            self._cancel_all(lambda reply: reply.request.version_id == slot.version.id)
            self._slots.pop(slot.version.id, None)

        try:
            self.run(remove())
        except NotReady:
            return  # the scheduler is closed and has stopped the engine
        if slot.engine is not None:
            slot.engine.stop()

    def take(self, slot: Slot, updates: list[Update]) -> None:
        """Accept updates from the slot's engine, in any thread."""
        self.call(self._take, slot, updates)

    def _may_start(self, reply: LocalReply) -> bool:
        return reply.request.version_id in self._slots

    def _start(self, reply: LocalReply) -> bool:
        request, engine = reply.request, self._slots[reply.request.version_id].engine
        assert request.prompt is not None
        return engine is not None and engine.submit(request.id, request.prompt, request.limit, reply.sampler)

    def _stop(self, reply: LocalReply) -> None:
        self._drop(reply, "cancelled", over=False)
        if not self._closing:
            self._schedule()

    async def _stop_generating(self) -> None:
        slots = list(self._slots.values())
        self._slots.clear()
        for slot in slots:
            if slot.engine is not None:
                await asyncio.to_thread(slot.engine.stop)

    def _take(self, slot: Slot, updates: list[Update]) -> None:
        for update in updates:
            reply = self._running.get(update.request_id)
            if reply is None:
                continue  # it ended before this update arrived
            outcome: FinishReason | ThumbloopError | None
            try:
                outcome = _failed(update.error) if update.error is not None else reply.take(update.tokens)
            except Exception as error:
                log.exception("A reply by %s failed.", slot.version.name)
                outcome = _failed(f"{type(error).__name__}: {error}")
            if update.last and outcome is None:
                outcome = "stop"  # no more updates will come, so the reader must not wait
            if isinstance(outcome, ThumbloopError):
                log.error("A reply by %s failed: %s", slot.version.name, outcome.message)
            if outcome is not None:
                self._drop(reply, outcome, over=update.last)
        self._check(slot)
        self._schedule()

    def _drop(self, reply: LocalReply, outcome: FinishReason | ThumbloopError, *, over: bool) -> None:
        """End the reply, also in its engine."""
        engine = self._slots[reply.request.version_id].engine
        if engine is not None:
            engine.drop(reply.request.id, over=over)
        self._end(reply, outcome)

    def _watch(self) -> None:
        for slot in list(self._slots.values()):
            self._check(slot)
        self._schedule()
        self._loop.call_later(CHECK_SECONDS, self._watch)

    def _check(self, slot: Slot) -> None:
        """Replace a dead engine: the replies it was generating fail; waiting ones stay in the queue."""
        engine = slot.engine
        if self._is_shut(slot) or engine is None or engine.failure is None:
            return  # the engine of a slot that was shut was stopped
        log.error("The engine of %s died and is replaced: %s", slot.version.name, engine.failure)
        failed = _failed(engine.failure)
        slot.engine = None
        for reply in list(self._running.values()):
            if reply.request.version_id == slot.version.id:
                self._end(reply, failed)
        self._rebuild(slot, engine)

    def _is_shut(self, slot: Slot) -> bool:
        return self._slots.get(slot.version.id) is not slot

    def _rebuild(self, slot: Slot, dead: Engine | None = None) -> None:
        def build() -> None:
            engine = None
            try:
                if dead is not None:
                    dead.stop()
                engine = self._make_engine(slot)
            except Exception:
                log.exception("%s has no engine; trying again.", slot.version.name)
            if not self.call(self._rebuilt, slot, engine) and engine is not None:
                engine.stop()

        threading.Thread(target=build, name="rebuild", daemon=True).start()

    def _rebuilt(self, slot: Slot, engine: Engine | None) -> None:
        if self._is_shut(slot):
            if engine is not None:
                threading.Thread(target=engine.stop, daemon=True).start()
            return
        slot.engine = engine
        if engine is None:
            failed = _failed("the model cannot be started")
            self._end_waiting(failed, lambda reply: reply.request.version_id == slot.version.id)
            self._loop.call_later(RETRY_SECONDS, self._rebuild, slot)
        self._schedule()


def _failed(why: str) -> ThumbloopError:
    return ThumbloopError(
        f"The model failed during this reply ({why}); ask for it again. The server's log has the details.",
        code="generation_failed",
    )
