"""The Engine protocol: turns prompts into tokens with one model, several prompts at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainer.generation.sampling import Sampler


@dataclass(frozen=True)
class Update:
    """Progress of one request; `last` marks the final update. `tokens` are all generated so far."""

    request_id: str
    tokens: Sequence[int]
    last: bool = False
    error: str | None = None


Sink = Callable[[list[Update]], object]  # called from the engine's own threads; must be quick


class Engine(Protocol):
    """Generates with one model. `submit` and `drop` are called from one thread and never block."""

    def submit(self, request_id: str, prompt: Sequence[int], limit: int, sampler: Sampler) -> bool:
        """Accept the request; False if there is no room for it now. Its updates go to the sink."""

    def drop(self, request_id: str, *, over: bool) -> None:
        """Forget the request, and cancel it unless it is `over`. Call it once per request.

        Updates already on their way may still arrive.
        """

    @property
    def failure(self) -> str | None:
        """Why this engine has stopped for good; None if it works. Not all its requests may have ended."""

    def stop(self) -> None:
        """Cancel all requests and free the memory; may take a second."""
