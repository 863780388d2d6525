"""The figures of the admin's pages; where counting takes long, those that were counted last."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from starlette.requests import Request

from app.api.v1.model_versions import all_versions, current_canary
from app.api.v1.stats import Figures, JudgementOut, Statistics, current_figures, current_statistics
from app.services import Services
from storage.registry.training_runs import active_run

T = TypeVar("T")

LONG = 0.2  # seconds beyond which figures are counted in the background
PATIENCE = 2.0  # seconds that a reader waits for them; a cold start or a busy machine takes no longer


class Remembered(Generic[T]):
    """The value of a function: computed for each reader, or, if that takes long, in the background.

    Then each reader has the next value computed, one at a time, and gets the last one if that takes too long.
    """

    def __init__(self, compute: Callable[[], T], *, long: float = LONG, patience: float = PATIENCE) -> None:
        self._compute, self._long, self._patience = compute, long, patience
        self._renewed = threading.Condition()
        self._computing = threading.Lock()
        self._value: T | None = None
        self._times, self._seconds = 0, 0.0

    def get(self) -> T:
        with self._renewed:
            times, quick = self._times, self._seconds <= self._long
        if not times or quick:
            return self._renew()
        self.renew_soon()
        with self._renewed:
            self._renewed.wait_for(lambda: self._times > times, self._patience)
            assert self._value is not None
            return self._value

    def renew_soon(self) -> None:
        """Compute in the background, unless that is under way."""
        if self._computing.acquire(blocking=False):
            threading.Thread(target=self._renew_once, name="admin-figures", daemon=True).start()

    def _renew_once(self) -> None:
        try:
            self._renew()
        finally:
            self._computing.release()

    def _renew(self) -> T:
        began = time.monotonic()
        value = self._compute()
        with self._renewed:
            self._value, self._seconds = value, time.monotonic() - began
            self._times += 1
            self._renewed.notify_all()
        return value


def remember_figures(services: Services) -> Remembered[tuple[Figures, Statistics]]:
    return Remembered(lambda: (current_figures(services), current_statistics(services)))


def shown_figures(request: Request, services: Services) -> tuple[Figures, Statistics]:
    """Votes may be counted a little late in a large store; versions, runs and canaries are those of now."""
    figures, statistics = request.app.state.admin_figures.get()
    with services.database.read() as session:
        active = active_run(session)
        now = {"versions": all_versions(session), "active_run": active.id if active else None}
    judgements = [JudgementOut.model_validate(one) for one in services.monitor.judgements()]
    answering = {"canary": current_canary(services), "judgements": judgements}
    return figures.model_copy(update=now), statistics.model_copy(update=answering)
