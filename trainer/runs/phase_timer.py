"""How long each phase of a run took in this process."""

import time


class PhaseTimer:
    """Seconds by phase; a phase that is entered ends the one before."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._phase: str | None = None
        self._since = 0.0

    def enter(self, phase: str) -> None:
        self.read()
        self._phase = phase

    def read(self) -> dict[str, float]:
        """The seconds of every phase so far."""
        now = time.monotonic()
        if self._phase is not None:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._since = now
        return dict(self._seconds)
