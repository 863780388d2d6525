"""The in-process backend: transformers, one slot per model version, an engine in each.

Checks and counts what comes in; the desk sees to the replies and engines generate them. Knows no
database: which version should answer is for Deployments.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from app.serving import memory
from app.serving.admission import Places
from app.serving.backend import Occupancy, ReplyStream, Sampling, ServedVersion, prompt_too_long
from app.serving.local import threads
from app.serving.local.batching_engine import ContinuousEngine, Unsuitable
from app.serving.local.engine import Engine
from app.serving.local.plain_engine import PlainEngine
from app.serving.local.reply import Reply, Request
from app.serving.local.scheduler import Desk, Slot
from app.serving.local.slot import build_model, try_model
from storage.errors import NotReady
from storage.settings import Settings
from trainer.dataset.tokenise import prompt_ids
from trainer.model.base_model import BaseModelSource, load_model, load_tokenizer

log = logging.getLogger("thumbloop.serving")


class LocalBackend:
    """Loads the base model at once, or with the first version if it is to wait; raises ModelUnavailable."""

    def __init__(self, settings: Settings, source: BaseModelSource, *, wait: bool = False) -> None:
        self._source = source
        self._base: Any = None
        self._tokenizer = load_tokenizer(source)
        self._cache_tokens = settings.serving_cache_tokens
        self._context = min(source.max_context, self._cache_tokens)
        self._batching = settings.batching == "auto"
        # Tokenising once here also settles the tokenizer's state, which threads then only read.
        self._trial_prompt = prompt_ids(self._tokenizer, [{"role": "user", "content": "Hello"}])
        self._at_once = settings.max_concurrent_replies
        self._places = Places(self._at_once, settings.max_waiting_replies)
        self._ids = itertools.count(1)
        self._loading = threading.Lock()  # one slot is built at a time
        self._lock = threading.Lock()  # guards the fields below and the places of slots
        self._slots: dict[str, Slot] = {}
        self._closed = False
        self._idle = threading.Condition(self._lock)
        self._desk = Desk(self._at_once, self._make_engine, self._free_place)
        if not wait:
            self._load_base()

    def load(self, version: ServedVersion) -> None:
        with self._loading:
            if version.id in self._slots:
                return
            began = time.perf_counter()
            if self._base is None:
                self._load_base()
            model = build_model(self._base, version)
            threads.suit(model)
            slot = Slot(version, model, try_model(model, version, self._trial_prompt))
            engine = slot.engine = self._make_engine(slot)
            with self._lock:
                if not self._closed:
                    self._slots[version.id] = slot
                    self._desk.open(slot)
            if version.id not in self._slots:
                engine.stop()
                raise NotReady("The server is stopping.")
            log.info("%s is ready to reply, built in %.2f s.", version.name, time.perf_counter() - began)

    def loaded(self) -> list[str]:
        with self._lock:
            return list(self._slots)

    def unload(self, version_id: str) -> bool:
        with self._lock:
            slot = self._slots.get(version_id)
            if slot is not None and slot.places:
                return False
            self._slots.pop(version_id, None)
        if slot is not None:
            self._desk.shut(slot)
        return True

    def release(self, patience: float) -> None:
        """Free every version and the base model, which the next `load` loads again.

        Replies under way may go on for so many seconds and are cut off then.
        """
        with self._loading:
            with self._lock:
                self._idle.wait_for(lambda: not any(slot.places for slot in self._slots.values()), patience)
                slots = list(self._slots.values())
                self._slots.clear()
            while slots:  # none keeps a name here, so that the collector finds it
                self._desk.shut(slots.pop())
            self._base = None
        memory.let_go()

    def share_of_context(self, messages: Sequence[Mapping[str, str]]) -> float:
        return len(self._tokens(messages)) / self._context

    def stream(
        self,
        version_id: str,
        messages: Sequence[Mapping[str, str]],
        sampling: Sampling,
        *,
        person: str = "",
    ) -> ReplyStream:
        asked_at = time.perf_counter()
        slot = self._take_place(version_id, person)
        try:
            prompt = self._prompt(messages)
        except BaseException:
            self._free_place(slot, person)
            raise
        limit = min(sampling.max_new_tokens, self._context - len(prompt))
        request = Request(str(next(self._ids)), version_id, person, prompt, sampling, limit, asked_at)
        return ReplyStream(lambda stream: self._begin(stream, slot, request))

    def trouble(self) -> str | None:
        return None if self.loaded() else "No model is loaded yet."

    def occupancy(self) -> Occupancy:
        return self._desk.occupancy()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._slots.clear()
        self._desk.close()

    def _take_place(self, version_id: str, person: str) -> Slot:
        with self._lock:
            slot = self._slots.get(version_id)
            if slot is None or self._closed:
                raise NotReady(f"The model version {version_id} is not loaded.", code="not_loaded")
            self._places.take(person)
            slot.places += 1
            return slot

    def _free_place(self, slot: Slot, person: str, seconds: float | None = None) -> None:
        """`seconds` is how long a reply took, if it ran."""
        with self._lock:
            slot.places -= 1
            self._idle.notify_all()
        self._places.free(person, seconds)

    def _prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        ids = self._tokens(messages)
        if len(ids) >= self._context:
            raise prompt_too_long(len(ids), self._context)
        return ids

    def _tokens(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return prompt_ids(self._tokenizer, [dict(message) for message in messages])

    def _begin(self, stream: ReplyStream, slot: Slot, request: Request) -> Callable[[], object]:
        reply = Reply(request, stream, self._tokenizer, self._end_ids)
        self._desk.begin(slot, reply)
        return partial(self._desk.cancel, slot, reply)

    def _load_base(self) -> None:
        self._base, _ = load_model(self._source)
        self._end_ids = _end_ids(self._base, self._tokenizer)

    def _make_engine(self, slot: Slot) -> Engine:
        """The batching engine; the plain one for a model that cannot be batched."""
        take = partial(self._desk.take, slot)
        if self._batching:
            try:
                return ContinuousEngine(
                    slot.model,
                    slot.trial,
                    end_ids=self._end_ids,
                    at_once=self._at_once,
                    cache_tokens=self._cache_tokens,
                    sink=take,
                )
            except Unsuitable as why:
                log.warning(
                    "%s replies without batching, each reply in a thread of its own: %s.",
                    slot.version.name,
                    why,
                )
        return PlainEngine(slot.model, self._end_ids, self._at_once, take)


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a reply: the tokenizer's, and those of the model's generation settings."""
    named = model.generation_config.eos_token_id
    ids = named if isinstance(named, list) else [named]
    return frozenset(token for token in (*ids, tokenizer.eos_token_id) if token is not None)
