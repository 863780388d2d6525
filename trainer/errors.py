"""Exceptions that end a training early. Errors that a user can fix are in storage.errors."""

from typing import Literal

# The first of these that applies is the one that counts.
Why = Literal["lost", "cancelled", "terminated"]


class Interrupted(Exception):
    """Stop working now. This is not an error: a `terminated` run is resumed, so its last step is saved."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why = why


class Diverged(ArithmeticError):
    """A gradient, a weight or the loss is not finite, or the gradient exploded."""


class OutOfMemory(MemoryError):
    """Even the smallest passes do not fit in memory."""

    def __init__(self, batch_size: int, max_length: int) -> None:
        super().__init__(batch_size, max_length)  # both, so that it can be pickled

    def __str__(self) -> str:
        batch_size, max_length = self.args
        return (
            f"The training ran out of memory, even with one reply at a time and nothing kept for the "
            f"backward pass. Lower THUMBLOOP_MAX_LENGTH={max_length}, set THUMBLOOP_PRECISION=bf16, or free "
            f"some memory; a smaller THUMBLOOP_BATCH_SIZE={batch_size} would not help."
        )


class ProcessLost(RuntimeError):
    """A training process was killed. Another attempt can resume from the newest checkpoint."""


class NotStarted(RuntimeError):
    """The job of a run never began, and was taken back: the run fails, and this says why."""


class ClusterAway(RuntimeError):
    """A cluster does not answer. It may do so again, and its jobs may go on meanwhile."""
