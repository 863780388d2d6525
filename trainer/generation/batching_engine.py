"""The batching engine: continuous batching by transformers, one manager for one model.

Requests join and leave the running batch at any token. This module adds what the library leaves to its
callers: a cache of fixed size, admission by free cache, a seeded draw for each request, updates straight
from the worker's thread, and detection of a dead worker.
"""

import contextlib
import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.continuous_batching.requests import FutureRequestState, GenerationOutput

from trainer.generation import paged_attention
from trainer.generation.engine import Sink, Update
from trainer.generation.sampling import Sampler, choose_tokens
from trainer.generation.trial import Trial

PAGE_TOKENS = 32
STEP_TOKENS = 256  # of prompts per step: bounds how long a new prompt delays everyone's next token
# Cache reserved for a reply, however long it may become: nearly all end earlier. If too many outgrow it
# at once, the manager requeues the youngest and recomputes its cache; its tokens are kept.
RESERVED_TOKENS = 512
TRIAL_SECONDS = 60.0
TRIAL_TOLERANCE = 0.05  # share of the gap between the best and the mean logit; bf16 differs by a tenth of it


class Unsuitable(Exception):
    """The library cannot batch this model, or gives wrong results."""


class ContinuousEngine:
    """Ready once constructed and checked by a trial; raises Unsuitable if the library refuses the model.

    The model must not be used by anything else until the engine is stopped: its attention is replaced.
    """

    def __init__(
        self,
        model: Any,
        trial: Trial,
        *,
        end_ids: frozenset[int],
        at_once: int,
        cache_tokens: int,
        sink: Sink,
    ) -> None:
        self._model = model
        self._attention = model.config._attn_implementation
        self._end_ids = sorted(end_ids)
        self._pages = -(-cache_tokens // PAGE_TOKENS)
        self.reserved: dict[str, int] = {}  # pages by request
        config = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=self._pages,  # the default takes most of the memory and leaves none for a second slot
            max_batch_tokens=max(STEP_TOKENS, at_once),
            max_requests_per_batch=at_once,
            max_queue_size=2 * at_once,  # the batch, and as many dropped before the worker saw them
            use_cuda_graph=False,  # a graph replays kernels, not the draws of `_SeededChoice`
            use_async_batching=False,
            auto_switch_to_flash=False,  # would fetch a kernel from the hub
        )
        try:
            self.manager = model.init_continuous_batching(
                GenerationConfig(do_sample=False, eos_token_id=self._end_ids),  # type: ignore[no-untyped-call]
                config,
            )
            if paged_attention.suits(model):
                model.set_attn_implementation(paged_attention.NAME)
        except (ValueError, AttributeError) as error:
            raise Unsuitable(str(error)) from error
        self._router = self.manager.output_router = _Router(sink)
        self.manager.logit_processor = _seeded_choice()
        # Threads inherit the daemon flag: a server that fails to start must not wait for an idle worker.
        starter = threading.Thread(target=self.manager.start, daemon=True)
        starter.start()
        starter.join()
        try:
            self._prove(trial)
        except Unsuitable:
            self.stop()
            raise
        self._router.sink = sink

    def submit(self, request_id: str, prompt: Sequence[int], limit: int, sampler: Sampler) -> bool:
        pages = -(-(len(prompt) + min(limit, RESERVED_TOKENS)) // PAGE_TOKENS)
        taken = sum(self.reserved.values())
        # Only this thread adds to the queue, so if it is not full now, adding one does not block.
        if (taken and taken + pages > self._pages) or self.manager.input_queue.full():
            return False
        added = self.manager.add_request(
            list(prompt),
            request_id=request_id,
            max_new_tokens=limit,
            streaming=True,
            eos_token_id=self._end_ids,
            sampler=sampler,
        )
        if added is None:  # the worker has died: `failure` says why
            return False
        self.reserved[request_id] = pages
        return True

    def drop(self, request_id: str, *, over: bool) -> None:
        del self.reserved[request_id]
        if not over:
            self.manager.cancel_request(request_id)

    @property
    def failure(self) -> str | None:
        error = self.manager.background_thread_status.fatal_error
        if error is not None:
            return f"{type(error).__name__}: {error}"
        return None if self.manager.is_running() else "its worker thread has ended"

    def stop(self) -> None:
        self.manager.stop(hard_stop=True)
        self._model.set_attn_implementation(self._attention)

    def _prove(self, trial: Trial) -> None:
        """Raise Unsuitable unless the manager picks the token that the model alone finds best, or nearly."""
        news: SimpleQueue[list[Update]] = SimpleQueue()
        self._router.sink = news.put
        greedy = Sampler(temperature=0, top_p=1)
        update = None
        if self.submit("trial", trial.prompt, len(trial.tokens), greedy):
            with contextlib.suppress(Empty):
                while update is None or not update.last:
                    update = news.get(timeout=TRIAL_SECONDS)[-1]
            self.drop("trial", over=True)
        if update is None or not update.last:
            raise Unsuitable(self.failure or f"a trial took longer than {TRIAL_SECONDS:.0f} s")
        if update.error is not None:
            raise Unsuitable(update.error)
        for token, alone, logits in zip(update.tokens, trial.tokens, trial.logits, strict=False):
            best = logits.max()
            if best - logits[token] > TRIAL_TOLERANCE * (best - logits.mean()):
                raise Unsuitable(f"it continued a trial with token {token} instead of {alone}")
            if token != alone:
                break  # equally good, but from here on the texts differ


class _Router(OutputRouter):
    """Passes outputs on in the worker's thread; the library's own router needs an event loop per handler."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self.sink = sink

    def deliver(self, output: GenerationOutput) -> None:
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        self.sink(
            [Update(out.request_id, out.generated_tokens, out.is_finished(), out.error) for out in outputs]
        )


class _SeededChoice(ContinuousBatchingLogitsProcessor):
    """Draws each request's token by its own sampler and returns logits whose maximum is that token.

    A manager has a single generator for all requests; with `do_sample` off it takes the maximum.
    """

    supported_kwargs = {"sampler": Sampler}  # noqa: RUF012 (as the base class has it)
    ignored_kwargs = ()

    def __init__(self) -> None:
        self._samplers: list[Sampler] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> torch.Tensor:
        """Remember which samplers the next rows belong to; no tensor is needed."""
        self._samplers = [state.state.logit_processor_kwargs["sampler"] for state in requests_with_new_token]
        return torch.zeros(0, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        # Requests still in their prompt have rows too, after the others; their tokens are not read.
        rows = len(self._samplers)
        if rows:
            scores[range(rows), choose_tokens(scores[:rows], self._samplers)] = torch.inf
        return scores


def _seeded_choice() -> ContinuousBatchingLogitsProcessorList:
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([_SeededChoice()]))
    processors.tensors_required = 1
    return processors
