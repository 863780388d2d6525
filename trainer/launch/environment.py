"""What a process that trains sets before it imports the libraries, and its GPUs. Knows no run."""

import ctypes
import os
import warnings
from functools import cache

# glibc's names in malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def prepare_process() -> None:
    """Keep libraries from talking over the log, and from taking more than one GPU."""
    keep_freed_memory()
    # The log is for people: two libraries warn in it of each other's new names, which nothing of ours uses.
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # One GPU: TRL refuses the several that transformers would take. Of processes that train together each
    # has its own already.
    if os.environ.get("WORLD_SIZE", "1") == "1" and gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus()[0]


def keep_freed_memory() -> None:
    """Let glibc keep memory that is freed, for the next tensor of its size; other systems go without.

    By default it gives large blocks back and the kernel clears them anew each time: up to a third of a
    processor's time in a training step. One arena for all threads: what one thread frees would lie idle
    while the next one takes more, which made a training twice as large.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(M_ARENA_MAX, 1)


@cache
def gpus() -> tuple[str, ...]:
    """What CUDA calls the GPUs that a training may use; the first is that of the process that asks."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(name.strip() for name in given.split(",") if name.strip())
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))
