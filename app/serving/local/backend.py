"""The in-process backend: transformers, with one slot and one engine per model version.

Which version should answer is up to Deployments.
"""

import gc
import logging
import threading
import time
from functools import partial
from typing import Any

import torch

from app.serving.backend import Backend, ServedVersion
from app.serving.local.scheduler import LocalReply, LocalScheduler, Slot
from app.serving.local.slot import build_model, try_version
from app.serving.reply import ReplyStream, Request
from storage.errors import NotReady
from storage.settings import Settings
from trainer.dataset.template import prompt_ids
from trainer.generation.batching_engine import ContinuousEngine, Unsuitable
from trainer.generation.engine import Engine
from trainer.generation.plain_engine import PlainEngine
from trainer.generation.threads import limit_threads
from trainer.model.base_model import BaseModelSource, end_ids, load_model, load_tokenizer

log = logging.getLogger("thumbloop.serving")


class LocalBackend(Backend):
    """Loads the base model at once, or with the first version if `wait`; raises ModelUnavailable.

    `end_ids` are the tokens that end a reply; by default those of the model and its tokenizer.
    """

    _scheduler: LocalScheduler

    def __init__(
        self,
        settings: Settings,
        source: BaseModelSource,
        *,
        wait: bool = False,
        end_ids: frozenset[int] | None = None,
    ) -> None:
        self._source = source
        self.base: Any = None  # the base model, unless it is unloaded
        self._cache_tokens = settings.serving_cache_tokens
        super().__init__(settings, load_tokenizer(source), min(source.max_context, self._cache_tokens))
        self._batching = settings.batching == "auto"
        # The first call sets the tokenizer's state; later calls, from any thread, only read it.
        self._trial_prompt = prompt_ids(self._tokenizer, [{"role": "user", "content": "Hello"}])
        self._given_end_ids = end_ids
        self._end_ids = end_ids or frozenset()
        self._loading = threading.Lock()  # one slot is built at a time
        self._scheduler = LocalScheduler(self._concurrent, self._admission, self._make_engine)
        if not wait:
            self._load_base()

    @property
    def slots(self) -> dict[str, Slot]:
        """The loaded versions, by id."""
        with self._lock:
            return dict(self._versions)

    def load(self, version: ServedVersion) -> None:
        with self._loading:
            if version.id in self._versions:
                return
            began = time.perf_counter()
            if self.base is None:
                self._load_base()
            model = build_model(self.base, version)
            limit_threads(model)
            slot = Slot(version, model, try_version(model, version, self._trial_prompt))
            engine = slot.engine = self._make_engine(slot)
            try:
                self._scheduler.open(slot)
            except NotReady:
                engine.stop()
                raise
            with self._lock:
                self._versions[version.id] = slot
            log.info("%s is ready to reply, built in %.2f s.", version.name, time.perf_counter() - began)

    def release(self, patience: float) -> None:
        """Free every version and the base model, which the next `load` loads again.

        Replies under way may run for another `patience` seconds and are then cut off.
        """
        with self._loading:
            self._admission.wait_until_idle(patience)
            with self._lock:
                slots = list(self._versions.values())
                self._versions.clear()
            while slots:  # leave no reference here, so that the collector can free the slots
                self._scheduler.shut(slots.pop())
            self.base = None
        # Models contain reference cycles, so only a collection frees them.
        gc.unfreeze()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _free(self, loaded: Slot) -> None:
        self._scheduler.shut(loaded)

    def _make_reply(self, request: Request, loaded: Slot, stream: ReplyStream) -> LocalReply:
        return LocalReply(request, stream, self._tokenizer, self._end_ids)

    def _load_base(self) -> None:
        self.base, _ = load_model(self._source)
        if self._given_end_ids is None:
            self._end_ids = end_ids(self.base, self._tokenizer)

    def _make_engine(self, slot: Slot) -> Engine:
        """The batching engine, or the plain one for a model that cannot be batched."""
        take = partial(self._scheduler.take, slot)
        if self._batching:
            try:
                return ContinuousEngine(
                    slot.model,
                    slot.trial,
                    end_ids=self._end_ids,
                    at_once=self._concurrent,
                    cache_tokens=self._cache_tokens,
                    sink=take,
                )
            except Unsuitable as why:
                log.warning(
                    "%s replies without batching, each reply in a thread of its own: %s.",
                    slot.version.name,
                    why,
                )
        return PlainEngine(slot.model, self._end_ids, self._concurrent, take)
