"""What ends a training early. Errors that a person can mend are in storage.errors instead."""

from typing import Literal

Why = Literal["cancelled", "terminated", "lost"]


class Interrupted(Exception):
    """Leave the work, now; no error. A `terminated` run is resumed, so its last step is worth keeping."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why = why


class Diverged(ArithmeticError):
    """A gradient or a weight is not a finite number any more."""


class OutOfMemory(MemoryError):
    """Not even the smallest passes fit."""

    def __init__(self, batch_size: int, max_length: int) -> None:
        super().__init__(
            f"The training ran out of memory, even with one reply at a time and nothing kept for the "
            f"backward pass. Lower THUMBLOOP_MAX_LENGTH={max_length}, set THUMBLOOP_PRECISION=bf16, or free "
            f"some memory; a smaller THUMBLOOP_BATCH_SIZE={batch_size} would not help."
        )


class ProcessLost(RuntimeError):
    """One of the processes was ended from outside. Its leader may go on at the newest checkpoint."""
