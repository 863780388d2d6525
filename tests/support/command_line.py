"""The command line on an installation of its own."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from storage.db.database import Database, open_database
from storage.settings import Settings
from tests.support.live_server import FORKED, TEST_SETTINGS
from tests.support.programs import Program, run_command

PROGRAM = [sys.executable, "-m", "app.cli"]


class CommandLine:
    """`thumbloop` on an installation of its own; `settings` may change between two commands."""

    def __init__(self, data_dir: Path, model: Path) -> None:
        self.data_dir = data_dir
        own = {"data_dir": data_dir, "model": model, "port": 1, "executor": FORKED}
        self.settings: dict[str, object] = {**TEST_SETTINGS, **own}
        self._started = itertools.count()

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("THUMBLOOP_")}
        return clean | {f"THUMBLOOP_{name.upper()}": str(value) for name, value in self.settings.items()}

    @contextmanager
    def database(self) -> Iterator[Database]:
        with closing(open_database(Settings(data_dir=self.data_dir))) as database:
            yield database

    def run(self, *words: str, stdin: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run to the end; the exit code must be `code`, and no error may be a traceback."""
        ended = run_command(*words, environment=self.environment, stdin=stdin)
        assert ended.returncode == code, f"{words}: {ended.stdout}{ended.stderr}"
        assert "Traceback" not in ended.stderr
        return ended

    def output(self, *words: str, stdin: str = "") -> str:
        return self.run(*words, stdin=stdin).stdout

    def refused(self, *words: str, stdin: str = "", code: int = 1) -> str:
        """The one line on stderr of a refused command."""
        (line,) = self.run(*words, stdin=stdin, code=code).stderr.splitlines()
        assert line.startswith("thumbloop: ")
        return line

    def start(self, *words: str) -> Program:
        output = self.data_dir.with_suffix(f".{next(self._started)}.output")
        return Program("app.cli", *words, environment=self.environment, output=output)
