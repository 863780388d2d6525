"""A thread that does something again and again, and logs a lasting trouble once."""

import logging
import threading
from collections.abc import Callable

from storage.errors import Busy, ThumbloopError


class Watch:
    """Calls `look` every `seconds`. What it raises is logged as `trouble`, but for Busy, and tried again."""

    def __init__(
        self, name: str, seconds: float, look: Callable[[], None], log: logging.Logger, trouble: str
    ) -> None:
        self._seconds, self._look, self._log, self._trouble = seconds, look, log, trouble
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        troubled = ""
        while not self._stopping.wait(self._seconds):
            try:
                self._look()
                troubled = ""
            except Busy:
                pass  # nothing can be loaded for now; look again
            except Exception as error:
                if str(error) != troubled:
                    known = isinstance(error, ThumbloopError)
                    self._log.error("%s: %s", self._trouble, error, exc_info=not known)
                troubled = str(error)
