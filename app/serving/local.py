"""The in-process backend: transformers, one slot per model version, one worker thread per reply.

A reply's worker runs its own decode loop; replies share the slot's weights and nothing else. Knows
no database: which version should answer is for Deployments.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from app.serving.backend import FinishReason, ReplyEnd, ReplyStream, Sampling, ServedVersion
from app.serving.detokeniser import Detokeniser, StopStrings
from app.serving.generation import generate_tokens
from app.serving.slots import build_model, check_model
from storage.errors import Busy, InvalidInput, NotReady, ThumbloopError
from storage.settings import Settings
from trainer.base_model import BaseModelSource, load_model
from trainer.tokenise import prompt_ids

log = logging.getLogger("thumbloop.serving")


@dataclass
class Slot:
    version: ServedVersion
    model: Any
    replies: int = 0  # under way or waiting


@dataclass(frozen=True)
class Request:
    """One reply to generate; `at` is `time.perf_counter()` when it was asked for."""

    slot: Slot
    prompt: list[int]
    sampling: Sampling
    at: float


class LocalBackend:
    """Loads the base model at once; raises ModelUnavailable."""

    def __init__(self, settings: Settings, source: BaseModelSource) -> None:
        self._base, self._tokenizer = load_model(source)
        self._context = source.max_context
        self._end_ids = _end_ids(self._base, self._tokenizer)
        # Tokenising once here also settles the tokenizer's state, which threads then only read.
        self._trial_prompt = prompt_ids(self._tokenizer, [{"role": "user", "content": "Hello"}])
        self._at_once = settings.max_concurrent_replies
        self._places = self._at_once + settings.max_waiting_replies
        self._pool = ThreadPoolExecutor(self._at_once, thread_name_prefix="generate")
        self._lock = threading.Lock()  # guards the fields below
        self._loading = threading.Lock()  # one slot is built at a time
        self._slots: dict[str, Slot] = {}
        self._streams: set[ReplyStream] = set()
        self._taken = 0
        self._closed = False
        self._usual_seconds = 5.0  # a running mean over replies, to tell a refused caller when to return

    def load(self, version: ServedVersion) -> None:
        with self._loading:
            if version.id in self._slots:
                return
            began = time.perf_counter()
            model = build_model(self._base, version)
            check_model(model, version, self._trial_prompt)
            with self._lock:
                self._slots[version.id] = Slot(version, model)
            log.info("%s is ready to reply, built in %.2f s.", version.name, time.perf_counter() - began)

    def loaded(self) -> list[str]:
        with self._lock:
            return list(self._slots)

    def unload(self, version_id: str) -> bool:
        with self._lock:
            slot = self._slots.get(version_id)
            if slot is not None and slot.replies:
                return False
            self._slots.pop(version_id, None)
        return True

    def stream(
        self, version_id: str, messages: Sequence[Mapping[str, str]], sampling: Sampling
    ) -> ReplyStream:
        at = time.perf_counter()
        slot = self._take_place(version_id)
        try:
            request = Request(slot, self._prompt(messages), sampling, at)
        except BaseException:
            self._free_place(slot)
            raise
        return ReplyStream(lambda stream: self._begin(stream, request))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            streams = list(self._streams)
        for stream in streams:
            stream.cancel()
        self._pool.shutdown(wait=True)
        with self._lock:
            self._slots.clear()

    def _take_place(self, version_id: str) -> Slot:
        with self._lock:
            slot = self._slots.get(version_id)
            if slot is None or self._closed:
                raise NotReady(f"The model version {version_id} is not loaded.", code="not_loaded")
            if self._taken >= self._places:
                wait = math.ceil(self._usual_seconds * self._taken / self._at_once / 2)
                raise Busy(
                    f"{self._taken} replies are under way or waiting, which is the limit "
                    f"(max_concurrent_replies + max_waiting_replies); try again in about {wait} s.",
                    retry_after=max(1, min(wait, 60)),
                )
            self._taken += 1
            slot.replies += 1
            return slot

    def _free_place(self, slot: Slot) -> None:
        with self._lock:
            self._taken -= 1
            slot.replies -= 1

    def _prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        ids = prompt_ids(self._tokenizer, [dict(message) for message in messages])
        if len(ids) >= self._context:
            raise InvalidInput(
                f"The conversation is {len(ids)} tokens long, but the model reads at most {self._context}, "
                f"its reply included. Shorten the message or start a new chat.",
                code="prompt_too_long",
                field="content",
            )
        return ids

    def _begin(self, stream: ReplyStream, request: Request) -> Callable[[], object]:
        with self._lock:
            closed = self._closed
            if not closed:
                self._streams.add(stream)
                work = self._pool.submit(self._generate, stream, request)
        if closed:
            self._free_place(request.slot)
            stream.fail(NotReady("The server is stopping; send the message again once it is back."))
            return lambda: None
        work.add_done_callback(lambda done: self._over(stream, request, done))
        return work.cancel

    def _generate(self, stream: ReplyStream, request: Request) -> ReplyEnd:
        started = time.perf_counter()
        text, stops = Detokeniser(self._tokenizer), StopStrings(request.sampling.stop)
        limit = min(request.sampling.max_new_tokens, self._context - len(request.prompt))
        content: list[str] = []
        token_ids: list[int] = []
        first: float | None = None
        reason: FinishReason = "length"

        def write(delta: str) -> None:
            content.append(delta)
            stream.write(delta)

        with torch.inference_mode():
            model = request.slot.model
            for token in generate_tokens(
                model, request.prompt, request.sampling, limit, lambda: stream.cancelled
            ):
                first = first or time.perf_counter()
                token_ids.append(token)
                if token in self._end_ids:
                    reason = "stop"
                    break
                write(stops.add(text.add(token)))
                if stops.found:
                    reason = "stop"
                    break
        if not stops.found:
            write(stops.add(text.flush()))
            write(stops.flush())
        if reason == "length" and len(token_ids) < limit:
            reason = "cancelled"  # nothing else ends the loop early
        ended = time.perf_counter()
        timings = {
            "queued_s": round(started - request.at, 4),
            "first_token_s": round(first - request.at, 4) if first else None,
            "total_s": round(ended - request.at, 4),
            "tokens": len(token_ids),
        }
        self._usual_seconds += 0.2 * (ended - started - self._usual_seconds)
        return ReplyEnd("".join(content), reason, token_ids, len(request.prompt), timings)

    def _over(self, stream: ReplyStream, request: Request, work: "Future[ReplyEnd]") -> None:
        """Runs once for every stream that began, however its work ended: its reader waits for this."""
        self._free_place(request.slot)
        with self._lock:
            self._streams.discard(stream)
        if work.cancelled():
            waited = round(time.perf_counter() - request.at, 4)
            timings = {"queued_s": waited, "first_token_s": None, "total_s": waited, "tokens": 0}
            stream.finish(ReplyEnd("", "cancelled", [], len(request.prompt), timings))
        elif error := work.exception():
            log.error("A reply by %s failed.", request.slot.version.name, exc_info=error)
            stream.fail(_as_ours(error))
        else:
            stream.finish(work.result())


def _as_ours(error: BaseException) -> ThumbloopError:
    if isinstance(error, ThumbloopError):
        return error
    ours = ThumbloopError(
        f"The model failed during this reply ({type(error).__name__}: {error}); ask for it again. "
        f"The server's log has the details.",
        code="generation_failed",
    )
    ours.__cause__ = error
    return ours


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a reply: the tokenizer's, and those of the model's generation settings."""
    named = model.generation_config.eos_token_id
    ids = named if isinstance(named, list) else [named]
    return frozenset(token for token in (*ids, tokenizer.eos_token_id) if token is not None)
