"""The decode loop: prompt ids in, one token id after the other out.

Written out rather than left to transformers' `generate`, because a loop that yields needs no streamer
thread that can hang its reader, stops where we ask within one token, and draws from a random generator
of its own: the same seed gives the same text whatever other threads draw. Knows no text and no chats.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache

from app.serving.backend import Sampling

PREFILL_TOKENS = 512  # a long prompt goes in pieces: bounds memory, and a cancelled one stops early
CANDIDATES = 1024  # the nucleus is nearly always among so few; sorting a whole vocabulary costs milliseconds
COLDEST = 1e-4  # below this, sampling is greedy to the last bit of float32


class Sampler:
    """Chooses tokens by temperature and nucleus (Holtzman et al. 2020, arXiv 1904.09751)."""

    def __init__(self, sampling: Sampling) -> None:
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    def pick(self, logits: torch.Tensor) -> int:
        """A token id; `logits` is (vocabulary,)."""
        if self._temperature < COLDEST:
            return int(logits.argmax())
        logits = logits.float().cpu()
        probabilities = torch.softmax((logits - logits.max()) / self._temperature, dim=-1)
        if self._top_p == 1:
            return int(torch.multinomial(probabilities, 1, generator=self._random))
        best, ids = probabilities.topk(min(CANDIDATES, len(probabilities)))
        if float(best.sum()) < self._top_p:
            best, ids = probabilities.sort(descending=True)
        best[best.cumsum(0) - best >= self._top_p] = 0
        return int(ids[torch.multinomial(best, 1, generator=self._random)])


def generate_tokens(
    model: Any,
    prompt: Sequence[int],
    sampling: Sampling,
    max_new_tokens: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[int]:
    """Yield up to `max_new_tokens` ids, without end; the caller stops at an end token.

    Ends early once `cancelled()` is true. Enter `torch.inference_mode()` around the whole iteration.
    """
    sampler = Sampler(sampling)
    cache = DynamicCache(config=model.config)
    pending = list(prompt)
    for _ in range(max_new_tokens):
        for start in range(0, len(pending), PREFILL_TOKENS):
            if cancelled():
                return
            logits = next_logits(model, pending[start : start + PREFILL_TOKENS], cache)
        pending = [sampler.pick(logits)]
        yield pending[0]


def next_logits(model: Any, ids: Sequence[int], cache: Cache) -> torch.Tensor:
    """Logits (vocabulary,) of the token after `ids`, which are added to the cache."""
    inputs = torch.tensor([list(ids)], device=model.device)
    output = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    logits: torch.Tensor = output.logits[0, -1]
    return logits
