"""Prepares a process before its libraries are imported: memory, warnings, and one GPU for a training."""

import ctypes
import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# glibc's names in malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def prepare_process() -> None:
    """Set up memory, warnings and GPUs for a process that trains."""
    keep_freed_memory()
    # The log is for people. Two libraries write FutureWarnings about each other, for APIs that we do not use.
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Use one GPU: transformers would take all of them, which TRL refuses. Processes that train together
    # already have one each.
    if os.environ.get("WORLD_SIZE", "1") == "1" and gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus()[0]


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensor of its size. Does nothing on other systems.

    By default glibc returns large blocks to the kernel, which clears them anew each time: up to a third of
    CPU time in a training step. One arena serves all threads: with several, memory freed by one thread stays
    idle while another allocates more, which doubled a training's memory.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(M_ARENA_MAX, 1)


@contextmanager
def loading() -> Iterator[None]:
    """Collect no garbage in here, where libraries are imported, and never look through what they made.

    Nearly all of it stays, and to search it again and again took a quarter of the imports' time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@cache
def gpus() -> tuple[str, ...]:
    """CUDA's names for the GPUs that a training may use; the first one is this process's."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(name.strip() for name in given.split(",") if name.strip())
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))
