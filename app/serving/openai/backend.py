"""The external backend: another server, which speaks OpenAI's protocol, generates the replies.

Each version is a model name on that server: the base model's is a setting, an adapter has its own.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

import tenacity

from app.serving.adapter_files import check_adapter
from app.serving.admission import Admission
from app.serving.backend import Backend, ServedVersion
from app.serving.openai import vllm
from app.serving.openai.breaker import Breaker
from app.serving.openai.client import FAILED, MISSING, ModelServer
from app.serving.openai.reply import ExternalReply, ExternalVersion
from app.serving.reply import FinishReason, ReplyStream, Request, Sampling
from app.serving.scheduler import Scheduler
from storage.errors import ArtifactRefused, Busy, InvalidInput, NotReady, ThumbloopError
from storage.settings import Settings
from trainer.model.base_model import BaseModelSource, load_tokenizer

log = logging.getLogger("thumbloop.serving")

TRIAL = [{"role": "user", "content": "Hello"}]
TRIAL_TOKENS = 8
ATTEMPTS = 3
PAUSE_SECONDS = 0.4  # at most, before the second attempt; twice that before the third
LIST_SECONDS = 5.0  # timeout for listing the server's models
REUSE_SECONDS = 2.0  # how long `trouble` reuses the last answer


class ExternalScheduler(Scheduler[ExternalReply]):
    """Runs one task per reply."""

    def __init__(self, concurrent: int, admission: Admission, backend: "ExternalBackend") -> None:
        super().__init__(concurrent, admission)
        self._backend = backend
        self._tasks: dict[str, asyncio.Task[FinishReason]] = {}  # by request id

    def _start(self, reply: ExternalReply) -> bool:
        task = self._tasks[reply.request.id] = self._loop.create_task(self._backend.generate(reply))
        task.add_done_callback(partial(self._finished, reply))
        return True

    def _stop(self, reply: ExternalReply) -> None:
        self._tasks[reply.request.id].cancel()

    async def _stop_generating(self) -> None:
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._backend.server.close()
        await self._loop.shutdown_asyncgens()

    def _finished(self, reply: ExternalReply, task: asyncio.Task[FinishReason]) -> None:
        del self._tasks[reply.request.id]
        if task.cancelled():
            outcome: FinishReason | ThumbloopError = "cancelled"
        elif isinstance(error := task.exception(), ThumbloopError):
            outcome = error
        elif error is not None:
            log.error("A reply failed.", exc_info=error)
            outcome = broken_off()
        else:
            outcome = task.result()
        self._end(reply, outcome)
        if not self._closing:
            self._schedule()


class ExternalBackend(Backend):
    """`source` is the local base model, whose tokenizer counts prompts; without it nothing is counted.

    The server need not answer yet. Raises ModelUnavailable for a source without a tokenizer.
    """

    _scheduler: ExternalScheduler

    def __init__(
        self, settings: Settings, source: BaseModelSource | None, breaker: Breaker | None = None
    ) -> None:
        tokenizer = load_tokenizer(source) if source is not None else None
        super().__init__(settings, tokenizer, source.max_context if source is not None else None)
        self._base_name = settings.openai_model
        self._trial = self.prompt(TRIAL)  # sets the tokenizer's state; later calls only read it
        self.server = ModelServer(
            settings.openai_base_url, settings.openai_api_key, settings.openai_timeout_seconds
        )
        self._breaker = breaker or Breaker()
        self._models: list[str] | None = None  # the server's models when last asked
        self._extra: Mapping[str, Any] = {}  # request fields that this server accepts beyond OpenAI's
        # vLLM, SGLang and llama.cpp take this field; it is sent only where the setting has something.
        self._template = {"chat_template_kwargs": args} if (args := settings.template_args) else {}
        self._checked: tuple[float, str | None] = (float("-inf"), None)
        self._scheduler = ExternalScheduler(self._concurrent, self._admission, self)

    def load(self, version: ServedVersion) -> None:
        """Have the server load the version's adapter, and try it.

        The base model needs no loading: it counts as loaded even while the server does not answer. Raises
        Conflict if the server cannot load adapters, Busy if it does not answer, or the error it refuses with.
        """
        if version.id in self.loaded():
            return
        if version.adapter is not None:
            check_adapter(version)
        loaded = ExternalVersion(version, vllm.adapter_name(version) if version.adapter else self._base_name)
        try:
            self._scheduler.run(self._load(loaded))
        except Busy as error:
            if version.adapter is not None:
                raise
            log.warning("%s replies once the model server does. %s", version.name, error.message)
        with self._lock:
            self._versions[version.id] = loaded

    def trouble(self) -> str | None:
        checked_at, trouble = self._checked
        if time.monotonic() - checked_at > REUSE_SECONDS:
            try:
                self._breaker.check()
                self._scheduler.run(self._list_models())
                trouble = super().trouble()
            except ThumbloopError as error:
                trouble = error.message
            self._checked = (time.monotonic(), trouble)
        return trouble

    async def generate(self, reply: ExternalReply) -> FinishReason:
        """For the scheduler: request the reply until text arrives, and pass it on.

        Raises Busy, NotReady, InvalidInput, and ThumbloopError (code `generation_failed`) for a reply that
        broke off.
        """
        if self._models is None:  # the server did not answer when we started
            with suppress(ThumbloopError):
                await self._list_models()
        retries = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_random_exponential(multiplier=PAUSE_SECONDS),
            retry=tenacity.retry_if_exception(lambda error: getattr(error, "code", "") == FAILED),
            before_sleep=lambda state: log.warning(
                "A reply is requested again: %s", state.outcome and state.outcome.exception()
            ),
            reraise=True,
        )
        async for attempt in retries:
            self._breaker.check()  # outside the attempt: its refusal is not retried
            with attempt:
                try:
                    with self._breaker.attempt():
                        body = {**reply.body(), **self._extra, **self._template}
                        async with aclosing(self.server.chat(body)) as chunks:
                            return await reply.read(chunks, self._breaker)
                except ThumbloopError as error:
                    if reply.has_text:
                        log.error("A reply broke off: %s", error.message)
                        raise broken_off() from error
                    if error.code == MISSING and attempt.retry_state.attempt_number < ATTEMPTS:
                        await self._find(reply.loaded, error)
                        raise tenacity.TryAgain(error.message) from error
                    raise
        raise AssertionError("unreachable")

    def _check_ready(self) -> None:
        self._breaker.check()

    def _make_reply(self, request: Request, loaded: ExternalVersion, stream: ReplyStream) -> ExternalReply:
        return ExternalReply(request, stream, loaded)

    def _free(self, loaded: ExternalVersion) -> None:
        if loaded.version.adapter is None:
            return
        try:
            self._scheduler.run(vllm.unload_adapter(self.server, loaded.model))
        except ThumbloopError as error:
            log.warning("%s stays loaded in the model server: %s", loaded.version.name, error.message)

    async def _load(self, loaded: ExternalVersion) -> None:
        """Have the server load the adapter if it lacks it, and try it."""
        version = loaded.version
        with self._breaker.attempt():
            models = await self._list_models()
        if version.adapter is not None and loaded.model not in models:
            await vllm.load_adapter(self.server, version, loaded.model)
        greedy = Sampling(temperature=0, top_p=1, max_new_tokens=TRIAL_TOKENS)
        request = Request(
            "trial", version.id, "", TRIAL, self._trial.ids, greedy, TRIAL_TOKENS, time.perf_counter()
        )
        reply = ExternalReply(request, ReplyStream(lambda _stream: lambda: None), loaded)
        try:
            reply.end(await self.generate(reply))
        except (InvalidInput, NotReady) as error:
            if version.adapter is None:
                raise
            with suppress(ThumbloopError):
                await vllm.unload_adapter(self.server, loaded.model)
            raise ArtifactRefused(f"A first try of {version.name} failed. {error.message}") from error
        self._compare(reply.stream.end.prompt_tokens)

    async def _list_models(self) -> list[str]:
        """List the server's models, and note which extra request fields it accepts."""
        models = await self.server.models(LIST_SECONDS)
        base = next((model for model in models if model["id"] == self._base_name), {})
        self._extra = vllm.FIELDS if base.get("owned_by") == vllm.OWNER else {}
        most = base.get("max_model_len")
        if isinstance(most, int):
            self._context = min(most, self._context or most)
        self._models = [model["id"] for model in models]
        return self._models

    def _compare(self, counted: int) -> None:
        """Warn if the server counts other prompt tokens than the local tokenizer, which training uses."""
        if self._trial.ids is not None and counted != len(self._trial.ids):
            log.warning(
                "The model server reads %d tokens where the chat template of THUMBLOOP_MODEL makes %d. Does "
                "it serve another model? Training would learn from other prompts than were answered.",
                counted,
                len(self._trial.ids),
            )

    async def _find(self, loaded: ExternalVersion, missing: ThumbloopError) -> None:
        """Load an adapter again that the server lost, as it does in a restart."""
        if loaded.version.adapter is None:
            raise missing
        async with loaded.repairing:  # the first reply that misses it loads it; the others find it loaded
            await vllm.load_adapter(self.server, loaded.version, loaded.model)
        log.warning("The model server had lost %s; it is loaded again.", loaded.version.name)


def broken_off() -> ThumbloopError:
    return ThumbloopError(
        "The model server failed during this reply; ask for it again. The log has the details.",
        code="generation_failed",
    )
