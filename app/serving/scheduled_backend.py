"""The base class of both backends: holds versions, counts prompts, and hands replies to a scheduler.

Which version should answer is up to Deployments.
"""

import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from app.serving.admission import Admission
from app.serving.backend import (
    Occupancy,
    Prompt,
    ReplyStream,
    Sampling,
    prompt_too_long,
)
from app.serving.reply import Reply, Request
from app.serving.scheduler import Scheduler
from storage.errors import NotReady
from storage.settings import Settings
from trainer.dataset.tokenise import prompt_ids

V = TypeVar("V")  # what a backend stores for a loaded version
R = TypeVar("R", bound=Reply)


class ScheduledBackend(ABC, Generic[V, R]):
    """`tokenizer` and `context` (in tokens) are None if prompts are not counted."""

    _scheduler: Scheduler[R]

    def __init__(self, settings: Settings, tokenizer: Any, context: int | None) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self._concurrent = settings.max_concurrent_replies
        self._admission = Admission(self._concurrent, settings.max_waiting_replies)
        self._request_ids = itertools.count(1)
        self._lock = threading.Lock()  # guards `_versions`; none is removed while a reply is admitted
        self._versions: dict[str, V] = {}

    @abstractmethod
    def _make_reply(self, request: Request, loaded: V, stream: ReplyStream) -> R: ...

    @abstractmethod
    def _free(self, loaded: V) -> None:
        """Free the resources of a version that was removed."""

    def loaded(self) -> list[str]:
        with self._lock:
            return list(self._versions)

    def unload(self, version_id: str) -> bool:
        with self._lock:
            if self._admission.admitted(version_id):
                return False
            loaded = self._versions.pop(version_id, None)
        if loaded is not None:
            self._free(loaded)
        return True

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        if self._tokenizer is None or self._context is None:
            return Prompt(messages, None, 0.0)  # not counted, so never refused as too long
        ids = prompt_ids(self._tokenizer, [dict(message) for message in messages])
        return Prompt(messages, ids, len(ids) / self._context)

    def stream(
        self,
        version_id: str,
        messages: Sequence[Mapping[str, str]] | Prompt,
        sampling: Sampling,
        *,
        person: str = "",
    ) -> ReplyStream:
        asked_at = time.perf_counter()
        with self._lock:
            loaded = self._versions.get(version_id)
            if loaded is None:
                raise NotReady(f"The model version {version_id} is not loaded.", code="not_loaded")
            self._check_ready()
            self._admission.admit(person, version_id)
        try:
            prompt = messages if isinstance(messages, Prompt) else self.prompt(messages)
            limit = self._limit(prompt, sampling)
        except BaseException:
            self._admission.release(person, version_id)
            raise
        request = Request(
            *(str(next(self._request_ids)), version_id, person, prompt.messages, prompt.ids),
            *(sampling, limit, asked_at),
        )
        return ReplyStream(partial(self._begin, request, loaded))

    def occupancy(self) -> Occupancy:
        return self._scheduler.occupancy()

    def _check_ready(self) -> None:
        """Raise Busy while no reply can begin."""

    def _limit(self, prompt: Prompt, sampling: Sampling) -> int:
        """The reply's maximum number of tokens; raises InvalidInput if there is no room for any."""
        if prompt.ids is None or self._context is None:
            return sampling.max_new_tokens
        if len(prompt.ids) >= self._context:
            raise prompt_too_long(len(prompt.ids), self._context)
        return min(sampling.max_new_tokens, self._context - len(prompt.ids))

    def _begin(self, request: Request, loaded: V, stream: ReplyStream) -> Callable[[], object]:
        reply = self._make_reply(request, loaded, stream)
        self._scheduler.begin(reply)
        return partial(self._scheduler.cancel, reply)
