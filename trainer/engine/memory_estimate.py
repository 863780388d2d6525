"""Estimates the memory a training needs, measures its peak, and recognises out-of-memory errors."""

import resource
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils.memory import should_reduce_batch_size

from storage.settings import Settings
from trainer.dataset.tokenise import TokenisedExample
from trainer.model.host_limits import free_memory


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, Exception) and should_reduce_batch_size(error)


def checkpoints_activations(
    model: Any, rows: Sequence[TokenisedExample], settings: Settings, engine: str
) -> bool:
    """Whether to use gradient checkpointing: as set, or for `auto` if the activations do not fit."""
    if settings.gradient_checkpointing == "auto":
        return not fits_in_memory(model, rows, settings, engine)
    return settings.gradient_checkpointing == "on"


def fits_in_memory(model: Any, rows: Sequence[TokenisedExample], settings: Settings, engine: str) -> bool:
    """Whether the activations of the largest possible micro-batch fit in half of the free memory."""
    if model.device.type == "cuda":
        available = torch.cuda.mem_get_info(model.device)[0]
    else:
        available = free_memory() // PartialState().num_processes
    return bool(needed_bytes(model, rows, settings, engine) < available / 2)


def needed_bytes(model: Any, rows: Sequence[TokenisedExample], settings: Settings, engine: str) -> int:
    """Bytes of activations for the longest rows that could share a micro-batch."""
    lengths = sorted(min(len(row.prompt_ids) + len(row.completion_ids), settings.max_length) for row in rows)
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
