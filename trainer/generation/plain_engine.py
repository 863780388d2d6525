"""The plain engine: one thread and one decode loop per request, for models that cannot be batched.

The loop replaces transformers' `generate`: as a generator it needs no streamer thread, which could hang
its reader, and it can be cancelled within one token.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import Cache, DynamicCache

from trainer.generation.engine import Sink, Update
from trainer.generation.sampling import Sampler, choose_tokens

log = logging.getLogger("thumbloop.serving")

PREFILL_TOKENS = 512  # a long prompt is read in pieces: bounds memory, and cancelling stops it early


class PlainEngine:
    """Replies share the weights and nothing else."""

    failure = None  # a request that fails does not affect the others

    def __init__(self, model: Any, end_ids: frozenset[int], at_once: int, sink: Sink) -> None:
        self._model = model
        self._end_ids = end_ids
        self._sink = sink
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="generate")
        self._dropped: dict[str, threading.Event] = {}

    def submit(self, request_id: str, prompt: Sequence[int], limit: int, sampler: Sampler) -> bool:
        dropped = self._dropped[request_id] = threading.Event()
        self._pool.submit(self._run, request_id, prompt, limit, sampler, dropped)
        return True

    def drop(self, request_id: str, *, over: bool) -> None:
        self._dropped.pop(request_id).set()

    def stop(self) -> None:
        for dropped in list(self._dropped.values()):
            dropped.set()
        self._pool.shutdown(wait=True)

    def _run(
        self,
        request_id: str,
        prompt: Sequence[int],
        limit: int,
        sampler: Sampler,
        dropped: threading.Event,
    ) -> None:
        tokens: list[int] = []  # shared with the reader, who only looks at what is new
        try:
            with torch.inference_mode():
                for token in generate_tokens(self._model, prompt, sampler, limit, dropped.is_set):
                    tokens.append(token)
                    last = token in self._end_ids or len(tokens) >= limit
                    self._sink([Update(request_id, tokens, last)])
                    if last:
                        break
        except Exception as error:
            log.exception("A reply failed in the model.")
            self._sink([Update(request_id, tokens, last=True, error=f"{type(error).__name__}: {error}")])


def generate_tokens(
    model: Any,
    prompt: Sequence[int],
    sampler: Sampler,
    max_new_tokens: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[int]:
    """Yield up to `max_new_tokens` ids; the caller stops at an end token.

    Ends early once `cancelled()` is true. Wrap the iteration in `torch.inference_mode()`.
    """
    cache = DynamicCache(config=model.config)
    pending = list(prompt)
    for _ in range(max_new_tokens):
        for start in range(0, len(pending), PREFILL_TOKENS):
            if cancelled():
                return
            logits = next_logits(model, pending[start : start + PREFILL_TOKENS], cache)
        pending = choose_tokens(logits[None], [sampler])
        yield pending[0]


def next_logits(model: Any, ids: Sequence[int], cache: Cache) -> torch.Tensor:
    """Logits (vocabulary,) of the token after `ids`; adds `ids` to the cache."""
    inputs = torch.tensor([list(ids)], device=model.device)
    output = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    logits: torch.Tensor = output.logits[0, -1]
    return logits
