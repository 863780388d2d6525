"""The base class of both backends: holds model versions, counts prompts, and hands replies to a scheduler.

Independent of how a reply is generated. Which version should answer is up to Deployments.
"""

import itertools
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from app.serving.admission import Admission
from app.serving.reply import Reply, ReplyStream, Request, Sampling
from app.serving.scheduler import Occupancy, Scheduler
from storage.chats.reasoning_tags import Tag, opens
from storage.errors import InvalidInput, NotReady
from storage.settings import Settings
from trainer.dataset.template import NO_GREETING, NO_SYSTEM, folded, lacking, prompt_ids

log = logging.getLogger("thumbloop.serving")

SAID = {NO_SYSTEM, NO_GREETING}  # what the log says of a chat template
OPENING_TOKENS = 16  # at the end of a prompt, in which a tag is found


@dataclass(frozen=True)
class ServedVersion:
    """A model version that a backend can hold; the base model has no adapter."""

    id: str
    name: str
    adapter: Path | None

    @property
    def folder(self) -> Path:
        """The folder of its adapter."""
        assert self.adapter is not None
        return self.adapter


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model reads it: its token ids, if known, and their share of the context."""

    messages: Sequence[Mapping[str, str]]
    ids: list[int] | None
    share: float
    opened: Tag | None = None  # by which it ends, so that the model's reasoning is open


class Backend(ABC):
    """Holds model versions and generates with any of them at the same time.

    `tokenizer` and `context` (in tokens) are None if prompts are not counted. A subclass stores what it
    needs for a loaded version in `_versions`, by the version's id.
    """

    _scheduler: Scheduler[Any]

    def __init__(self, settings: Settings, tokenizer: Any, context: int | None) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self._concurrent = settings.max_concurrent_replies
        self._admission = Admission(self._concurrent, settings.max_waiting_replies)
        self._request_ids = itertools.count(1)
        self._lock = threading.Lock()  # guards `_versions`; none is removed while a reply is admitted
        self._versions: dict[str, Any] = {}
        for what in SAID & lacking(tokenizer) if tokenizer is not None else ():
            log.info("Conversations are folded: %s.", what)

    @abstractmethod
    def load(self, version: ServedVersion) -> None:
        """Load the version and try it once, unless it is loaded already.

        The caller has verified the adapter's folder. Raises ArtifactRefused.
        """

    @abstractmethod
    def _free(self, loaded: Any) -> None:
        """Free the resources of a version that was removed."""

    @abstractmethod
    def _make_reply(self, request: Request, loaded: Any, stream: ReplyStream) -> Reply: ...

    def loaded(self) -> list[str]:
        """Ids of the versions that can reply now."""
        with self._lock:
            return list(self._versions)

    def unload(self, version_id: str) -> bool:
        """Free the version. While one of its replies is under way, do nothing and return False."""
        with self._lock:
            if self._admission.admitted(version_id):
                return False
            loaded = self._versions.pop(version_id, None)
        if loaded is not None:
            self._free(loaded)
        return True

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """Tokenise the messages in advance; pass the result to `stream`."""
        if self._tokenizer is None or self._context is None:
            return Prompt(messages, None, 0.0)  # not counted, so never refused as too long
        known = folded(self._tokenizer, messages)
        ids = prompt_ids(self._tokenizer, known)
        opened = opens(self._tokenizer.decode(ids[-OPENING_TOKENS:]))
        return Prompt(known, ids, len(ids) / self._context, opened)

    def stream(
        self,
        version_id: str,
        messages: Sequence[Mapping[str, str]] | Prompt,
        sampling: Sampling,
        *,
        person: str = "",
    ) -> ReplyStream:
        """Admit one reply, which keeps the version loaded until the stream is over.

        Waiting replies start in a fair order between persons; `person` is an opaque key. The caller must
        start or cancel the stream: until then it counts as admitted. Raises Busy, InvalidInput (code
        `prompt_too_long`), NotReady (code `not_loaded`).
        """
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
            *(sampling, limit, asked_at, prompt.opened),
        )
        return ReplyStream(partial(self._begin, request, loaded))

    def trouble(self) -> str | None:
        """Why no version can reply now, in words that anyone may read; None if all is well."""
        return None if self.loaded() else "No model is loaded yet."

    def occupancy(self) -> Occupancy:
        """How many replies are being generated, are waiting, and are admitted."""
        return self._scheduler.occupancy()

    def close(self) -> None:
        """Cancel every reply and free the models."""
        with self._lock:
            self._versions.clear()
        self._scheduler.close()

    def _check_ready(self) -> None:
        """Raise Busy while no reply can begin."""
        return

    def _limit(self, prompt: Prompt, sampling: Sampling) -> int:
        """The reply's maximum number of tokens; raises InvalidInput if there is no room for any."""
        if prompt.ids is None or self._context is None:
            return sampling.max_new_tokens
        room = self._context - len(prompt.ids)
        if room <= 0:
            raise InvalidInput(
                "The conversation is {length} tokens long, but the model reads at most "
                "{most}, its reply included. Shorten the message or start a new chat.",
                code="prompt_too_long",
                field="content",
                length=len(prompt.ids),
                most=self._context,
            )
        return min(sampling.max_new_tokens, room)

    def _begin(self, request: Request, loaded: Any, stream: ReplyStream) -> Callable[[], object]:
        reply = self._make_reply(request, loaded, stream)
        self._scheduler.begin(reply)
        return partial(self._scheduler.cancel, reply)
