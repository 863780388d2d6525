"""Follows the changes that admins make to settings, on any server or the command line."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from app.background.watch import Watch
from storage.db.changed_settings import change_setting, current_settings, reset_setting
from storage.db.database import Database
from storage.settings import Settings

log = logging.getLogger("thumbloop.settings")

POLL_SECONDS = 1.0


class LiveSettings:
    """Updates `settings`, the object that all parts of a server read, from `configured` and the database.

    `check` raises for settings that cannot be used. `renewed` is called after a change, for those who keep
    something made of a setting.
    """

    def __init__(
        self,
        database: Database,
        configured: Settings,
        settings: Settings,
        *,
        check: Callable[[Settings], object],
        renewed: Callable[[], None],
    ) -> None:
        self.configured = configured
        self._database, self._settings = database, settings
        self._check, self._renewed = check, renewed
        self._renewing = threading.Lock()
        self._watch = Watch("settings", POLL_SECONDS, self.renew, log, "Changed settings cannot be used")
        self.start, self.stop = self._watch.start, self._watch.stop

    def change(self, name: str, value: Any, *, by: str) -> None:
        """Change a setting for all servers; raises NotFound or InvalidInput, and then nothing changes."""
        with self._database.write() as session:
            change_setting(session, self.configured, name, value, by=by, check=self._check)
        self.renew()

    def reset(self, name: str, *, by: str) -> None:
        """Let the configured value apply again; raises NotFound."""
        with self._database.write() as session:
            reset_setting(session, self.configured, name, by=by)
        self.renew()

    def renew(self) -> None:
        """Take over what is in the database."""
        with self._renewing:
            with self._database.read() as session:
                fresh = current_settings(session, self.configured)
            if self._settings.take_over(fresh):
                self._renewed()
