"""Memory of a training: what it will need, what it took, and what it looks like when there is none left.

Knows models by their configuration only.
"""

import resource
from collections.abc import Sequence
from typing import Any

import psutil
import torch
from accelerate.utils.memory import should_reduce_batch_size

from storage.settings import Settings
from trainer.tokenise import Row


class OutOfMemory(MemoryError):
    """Not even the smallest passes fit."""

    def __init__(self, batch_size: int, max_length: int) -> None:
        super().__init__(
            f"The training ran out of memory, even with one reply at a time and nothing kept for the "
            f"backward pass. Lower THUMBLOOP_MAX_LENGTH={max_length}, set THUMBLOOP_PRECISION=bf16, or free "
            f"some memory; a smaller THUMBLOOP_BATCH_SIZE={batch_size} would not help."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on whichever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, Exception) and should_reduce_batch_size(error)


def fits_in_memory(model: Any, rows: Sequence[Row], settings: Settings) -> bool:
    """Whether half of the free memory holds the activations of the largest possible block.

    A block keeps about 50 numbers per token, layer and hidden unit (42 to 50 measured on SmolLM2).
    Without them gradient checkpointing computes each layer twice, some 15 % more time on a CPU.
    """
    config = model.config.get_text_config()
    longest = max(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    tokens = settings.batch_size * min(longest, settings.max_length)
    needed = 50 * tokens * config.num_hidden_layers * config.hidden_size * model.dtype.itemsize
    if model.device.type == "cuda":
        available = torch.cuda.mem_get_info(model.device)[0]
    else:
        available = psutil.virtual_memory().available
    return bool(needed < available / 2)


def peak_memory() -> int:
    """The most that this process ever had, in bytes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
