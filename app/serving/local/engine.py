"""What an engine is: it turns prompts into tokens by one model, several at once.

Knows no text, no queue and no version.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.serving.local.sampling import Sampler


@dataclass(frozen=True)
class Update:
    """News of one request, none after the last. `tokens` are all that were generated so far."""

    request_id: str
    tokens: Sequence[int]
    last: bool = False
    error: str | None = None


Sink = Callable[[list[Update]], object]  # called from the engine's own threads; must be quick


class Engine(Protocol):
    """One model that generates. `submit` and `drop` are called from one thread and never block."""

    def submit(self, request_id: str, prompt: Sequence[int], limit: int, sampler: Sampler) -> bool:
        """Take the request; False if there is no room for it now. Its updates go to the sink."""

    def drop(self, request_id: str, *, over: bool) -> None:
        """Forget the request, to be called once for each; unless it is over already, it ends here.

        Updates that are under way may still come.
        """

    @property
    def failure(self) -> str | None:
        """Why this engine will never generate again, if so. Its requests may have been told or not."""

    def stop(self) -> None:
        """End what runs and free the memory; may take a second."""
