"""The external backend: another server generates, which speaks OpenAI's protocol.

A version is a model name there: the base model's is a setting, an adapter's is its own. Checks and counts
what comes in, as the local backend does; the desk sees to the replies. Knows no database.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from app.serving.admission import Places
from app.serving.backend import (
    FinishReason,
    Occupancy,
    ReplyStream,
    Sampling,
    ServedVersion,
    prompt_too_long,
)
from app.serving.local.slot import check_adapter
from app.serving.openai import vllm
from app.serving.openai.breaker import Breaker
from app.serving.openai.client import ModelServer
from app.serving.openai.reply import ExternalReply, ExternalRequest
from app.serving.openai.scheduler import ExternalDesk, Held
from storage.errors import ArtifactRefused, Busy, InvalidInput, NotReady, ThumbloopError
from storage.settings import Settings
from trainer.dataset.tokenise import prompt_ids
from trainer.model.base_model import BaseModelSource, load_tokenizer

log = logging.getLogger("thumbloop.serving")

TRIAL = [{"role": "user", "content": "Hello"}]
TRIAL_TOKENS = 8
LOOK_SECONDS = 5.0  # for the server to say what models it has
LOOK_AGAIN_SECONDS = 2.0  # until whoever watches us has it asked again


class ExternalBackend:
    """`source` is the base model on this machine, whose tokenizer counts; without it nothing is counted.

    The server need not answer yet. Raises ModelUnavailable for a source without a tokenizer.
    """

    def __init__(self, settings: Settings, source: BaseModelSource | None) -> None:
        self._base_name = settings.openai_model
        self._tokenizer = load_tokenizer(source) if source is not None else None
        self._context = source.max_context if source is not None else None
        self._trial_ids = self._ids(TRIAL)  # settles the tokenizer's state, which threads then only read
        self._server = ModelServer(
            settings.openai_base_url, settings.openai_api_key, settings.openai_timeout_seconds
        )
        self._breaker = Breaker()
        self._places = Places(settings.max_concurrent_replies, settings.max_waiting_replies)
        self._lock = threading.Lock()  # guards the versions and their places
        self._held: dict[str, Held] = {}
        self._models: list[str] | None = None  # what the server had when last asked
        self._extra: Mapping[str, Any] = {}  # request fields that this server knows beyond OpenAI's
        self._looked: tuple[float, str | None] = (float("-inf"), None)
        self._desk = ExternalDesk(settings.max_concurrent_replies, self._generate, self._free_place)

    def load(self, version: ServedVersion) -> None:
        """Raises Conflict if the server loads no adapters, Busy if it does not answer, or as it refuses.

        The base model needs no loading: while the server does not answer, it counts as loaded.
        """
        if version.id in self.loaded():
            return
        if version.adapter is not None:
            check_adapter(version)
        held = Held(version, vllm.adapter_name(version) if version.adapter else self._base_name)
        try:
            self._desk.run(self._load(held))
        except Busy as error:
            if version.adapter is not None:
                raise
            log.warning("%s replies once the model server does. %s", version.name, error.message)
        with self._lock:
            self._held[version.id] = held

    def loaded(self) -> list[str]:
        with self._lock:
            return list(self._held)

    def unload(self, version_id: str) -> bool:
        with self._lock:
            held = self._held.get(version_id)
            if held is not None and held.places:
                return False
            self._held.pop(version_id, None)
        if held is not None and held.version.adapter is not None:
            try:
                self._desk.run(vllm.unload_adapter(self._server, held.model))
            except ThumbloopError as error:
                log.warning("%s stays loaded in the model server: %s", held.version.name, error.message)
        return True

    def stream(
        self,
        version_id: str,
        messages: Sequence[Mapping[str, str]],
        sampling: Sampling,
        *,
        person: str = "",
    ) -> ReplyStream:
        asked_at = time.perf_counter()
        held = self._take_place(version_id, person)
        try:
            prompt = self._ids(messages)
        except BaseException:
            self._free_place(held, person)
            raise
        limit = sampling.max_new_tokens
        if prompt is not None and self._context is not None:
            limit = min(limit, self._context - len(prompt))
        request = ExternalRequest(held.model, person, messages, prompt, sampling, limit, asked_at)
        return ReplyStream(lambda stream: self._begin(held, ExternalReply(request, stream)))

    def share_of_context(self, messages: Sequence[Mapping[str, str]]) -> float:
        if self._tokenizer is None or self._context is None:
            return 0.0  # as long as nothing is counted, nothing is known to be too long
        return len(self._tokens(messages)) / self._context

    def occupancy(self) -> Occupancy:
        return self._desk.occupancy()

    def trouble(self) -> str | None:
        if not self.loaded():
            return "No model is loaded yet."
        looked_at, trouble = self._looked
        if time.monotonic() - looked_at > LOOK_AGAIN_SECONDS:
            try:
                self._breaker.check()
                self._desk.run(self._look())
                trouble = None
            except ThumbloopError as error:
                trouble = error.message
            self._looked = (time.monotonic(), trouble)
        return trouble

    def close(self) -> None:
        with self._lock:
            self._held.clear()
        self._desk.close(self._server.close())

    async def _load(self, held: Held) -> None:
        """Have the server load the adapter unless it has it, and try it."""
        version = held.version
        with self._breaker.attempt():
            models = await self._look()
        if version.adapter is not None and held.model not in models:
            await vllm.load_adapter(self._server, version, held.model)
        greedy = Sampling(temperature=0, top_p=1, max_new_tokens=TRIAL_TOKENS)
        request = ExternalRequest(
            held.model, "", TRIAL, self._trial_ids, greedy, TRIAL_TOKENS, time.perf_counter()
        )
        reply = ExternalReply(request, ReplyStream(lambda _stream: lambda: None))
        try:
            reply.finish(await self._generate(held, reply))
        except (InvalidInput, NotReady) as error:
            if version.adapter is None:
                raise
            with suppress(ThumbloopError):
                await vllm.unload_adapter(self._server, held.model)
            raise ArtifactRefused(f"A first try of {version.name} failed. {error.message}") from error
        self._compare(reply.stream.end.prompt_tokens)

    async def _look(self) -> list[str]:
        """Ask the server what models it has, and note what follows for requests."""
        models = await self._server.models(LOOK_SECONDS)
        base = next((model for model in models if model["id"] == self._base_name), {})
        self._extra = vllm.FIELDS if base.get("owned_by") == vllm.OWNER else {}
        most = base.get("max_model_len")
        if isinstance(most, int):
            self._context = min(most, self._context or most)
        self._models = [model["id"] for model in models]
        return self._models

    def _compare(self, counted: int) -> None:
        """Training reads prompts as the local tokenizer writes them; serving should read the same."""
        if self._trial_ids is not None and counted != len(self._trial_ids):
            log.warning(
                "The model server reads %d tokens where the chat template of THUMBLOOP_MODEL makes %d. Does "
                "it serve another model? Training would learn from other prompts than were answered.",
                counted,
                len(self._trial_ids),
            )

    async def _generate(self, held: Held, reply: ExternalReply) -> FinishReason:
        if self._models is None:  # it did not answer when we started
            with suppress(ThumbloopError):
                await self._look()
        return await reply.generate(self._server, self._breaker, self._extra, partial(self._find, held))

    async def _find(self, held: Held, missing: ThumbloopError) -> None:
        """Load an adapter again that the server has lost, as it does when it restarts."""
        if held.version.adapter is None:
            raise missing
        async with held.repairing:  # of many replies that miss it one loads it, and the others find it there
            await vllm.load_adapter(self._server, held.version, held.model)
        log.warning("The model server had lost %s; it is loaded again.", held.version.name)

    def _take_place(self, version_id: str, person: str) -> Held:
        with self._lock:
            held = self._held.get(version_id)
            if held is None:
                raise NotReady(f"The model version {version_id} is not loaded.", code="not_loaded")
            self._breaker.check()
            self._places.take(person)
            held.places += 1
            return held

    def _free_place(self, held: Held, person: str, seconds: float | None = None) -> None:
        """`seconds` is how long a reply took, if it ran."""
        with self._lock:
            held.places -= 1
        self._places.free(person, seconds)

    def _ids(self, messages: Sequence[Mapping[str, str]]) -> list[int] | None:
        if self._tokenizer is None or self._context is None:
            return None
        ids = self._tokens(messages)
        if len(ids) >= self._context:
            raise prompt_too_long(len(ids), self._context)
        return ids

    def _tokens(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return prompt_ids(self._tokenizer, [dict(message) for message in messages])

    def _begin(self, held: Held, reply: ExternalReply) -> Callable[[], object]:
        self._desk.begin(held, reply)
        return partial(self._desk.cancel, reply)
