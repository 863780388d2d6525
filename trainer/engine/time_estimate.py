"""Estimates how long a training will take, from the time of one forward pass.

The estimate is for the time before the first step; later ones use the measured steps
(trainer.engine.callbacks).
"""

import time
from collections.abc import Sequence
from typing import Any

import torch

from storage.settings import Settings
from trainer.dataset.plan import trained_tokens
from trainer.dataset.tokenise import TokenisedExample

PROBE_TOKENS = 256
# Cost of training a row, in forward passes without gradient, counting each token once. It covers forward and
# backward of the policy, the reference, mismatched replies, and scores over the vocabulary. Measured on the
# default model.
PASSES = {"shared-prefix": 8.0, "trl": 45.0}


def expected_seconds(
    model: Any, rows: Sequence[TokenisedExample], settings: Settings, processes: int = 1
) -> float:
    """Seconds for all epochs if no reference log-probability is cached. Runs a short probe itself.

    On GPUs each process has its own; without GPUs the processes share the cores.
    """
    tokens = sum(trained_tokens(row, settings.max_length) for row in rows)
    if model.device.type == "cuda":
        tokens //= processes
    return PASSES[settings.engine] * settings.epochs * tokens * _seconds_a_token(model)


@torch.no_grad()
def _seconds_a_token(model: Any) -> float:
    config = model.config.get_text_config()
    length = min(PROBE_TOKENS, getattr(config, "max_position_embeddings", None) or PROBE_TOKENS)
    ids = torch.randint(config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    ids = ids.to(model.device)
    began = 0.0
    for _ in range(2):  # the first pass of a shape is up to ten times slower
        began = time.monotonic()
        model(input_ids=ids, use_cache=False)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
    return (time.monotonic() - began) / length
