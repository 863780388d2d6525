"""Runs trainers as local processes, each in its own session, so that they outlive the server."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

from storage.db.ids import new_id
from storage.registry.artifacts import Artifacts
from storage.settings import Settings, in_environment


def child_environment(settings: Settings) -> dict[str, str]:
    """An environment from which a child process loads exactly these settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("THUMBLOOP_")}
    values = settings.model_dump(mode="json")
    values["data_dir"] = str(settings.data_dir.absolute())
    return inherited | in_environment(values)


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    owner: str


class LocalExecutor:
    """Starts `python -m trainer run ID`."""

    def __init__(self, settings: Settings) -> None:
        self._environment = child_environment(settings)
        self._artifacts = Artifacts(settings.data_dir)
        self._children: dict[str, _Child] = {}

    def start(self, run_id: str) -> str:
        owner = f"{os.uname().nodename}-{new_id()}"
        # The log also receives what libraries print, and the traceback of a trainer that cannot even start.
        with (self._artifacts.run_folder(run_id) / "train.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "trainer", "run", run_id, "--owner", owner],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the server's terminal must not reach it
            )
        self._children[run_id] = _Child(process, owner)
        return owner

    def alive(self, run_id: str) -> bool:
        child = self._children.get(run_id)
        return child is not None and child.process.poll() is None

    def terminate(self, run_id: str) -> None:
        self._signal(run_id, signal.SIGTERM)

    def kill(self, run_id: str) -> None:
        self._signal(run_id, signal.SIGKILL)

    def _signal(self, run_id: str, number: signal.Signals) -> None:
        if self.alive(run_id):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.killpg(self._children[run_id].process.pid, number)
