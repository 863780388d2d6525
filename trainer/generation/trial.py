"""A short greedy reply by a model alone, against which an engine is checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from trainer.generation.plain_engine import next_logits

TRIAL_TOKENS = 8


@dataclass(frozen=True)
class Trial:
    """A short greedy reply by a model alone: `logits` is (tokens, vocabulary), one row for each token."""

    prompt: list[int]
    tokens: list[int]
    logits: torch.Tensor


def try_model(model: Any, prompt: Sequence[int]) -> Trial:
    """Let the model continue the prompt greedily. What the library raises is passed on."""
    cache = DynamicCache(config=model.config)
    pending, tokens, rows = list(prompt), [], []
    with torch.inference_mode():
        for _ in range(TRIAL_TOKENS):
            rows.append(next_logits(model, pending, cache).float().cpu())
            pending = [int(rows[-1].argmax())]
            tokens += pending
    return Trial(list(prompt), tokens, torch.stack(rows))
