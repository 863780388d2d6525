"""Estimates the memory and the time of a training, measures its peak memory, and recognises a lack of it."""

import resource
import time
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils.memory import should_reduce_batch_size

from storage.settings import Settings
from trainer.dataset.tokenise import TokenisedExample
from trainer.model.host_limits import free_memory

PROBE_TOKENS = 256
# Cost of training a row, in forward passes without gradient, counting each token once. It covers forward and
# backward of the policy, the reference, mismatched replies, and scores over the vocabulary. Measured on the
# default model.
PASSES = {"shared-prefix": 8.0, "trl": 45.0}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, Exception) and should_reduce_batch_size(error)


def checkpoints_activations(
    model: Any, rows: Sequence[TokenisedExample], settings: Settings, engine: str
) -> bool:
    """Whether to use gradient checkpointing: as set, or for `auto` if the activations do not fit.

    They fit if those of the largest possible micro-batch take less than half of the free memory.
    """
    if settings.gradient_checkpointing != "auto":
        return settings.gradient_checkpointing == "on"
    if model.device.type == "cuda":
        available = torch.cuda.mem_get_info(model.device)[0]
    else:
        available = free_memory() // PartialState().num_processes
    return needed_bytes(model, rows, settings, engine) >= available / 2


def needed_bytes(model: Any, rows: Sequence[TokenisedExample], settings: Settings, engine: str) -> int:
    """Bytes of activations for the longest rows that could share a micro-batch."""
    lengths = sorted(min(row.length, settings.max_length) for row in rows)
    if engine == "trl":  # TRL pads
        lengths = [lengths[-1]] * settings.batch_size
    return sum(lengths[-settings.batch_size :]) * activation_bytes(model, engine)


def activation_bytes(model: Any, engine: str) -> int:
    """Bytes of activations per token of a micro-batch, kept for the backward pass.

    Measured on SmolLM2 at 1,000 tokens: shared-prefix up to 48 kB per layer in fp32 and 28 in bf16, where
    sums between layers stay in fp32; models whose feed-forward `fast_layers` does not replace keep more.
    Stock TRL keeps 42 to 50 numbers per layer and hidden unit.
    """
    config = model.config.get_text_config()
    hidden, size = config.hidden_size, model.dtype.itemsize
    wide = getattr(config, "intermediate_size", None) or 4 * hidden
    if not isinstance(wide, int):  # one per layer
        wide = max(wide)
    a_layer = 50 * hidden * size if engine == "trl" else 40 * hidden + (2 * hidden + 5 * wide) * size
    return int(config.num_hidden_layers * a_layer)


def peak_memory() -> int:
    """Peak memory of this process, in bytes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def expected_seconds(model: Any, rows: Sequence[TokenisedExample], settings: Settings) -> float:
    """Seconds for all epochs if no reference log-probability is cached. Runs a short probe.

    The estimate is for the time before the first step; later ones use the measured steps
    (trainer.engine.callbacks). On GPUs each process has its own; without GPUs the processes share the cores.
    """
    tokens = sum(min(row.length, settings.max_length) for row in rows)
    if model.device.type == "cuda":
        tokens //= PartialState().num_processes
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
