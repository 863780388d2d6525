"""The commands as people run them: processes with arguments, pipes and exit codes."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.integration import loop
from tests.live_server import TEST_SETTINGS, LiveServer, wait_until

PROGRAM = [sys.executable, "-m", "app.cli"]


class CommandLine:
    """`thumbloop` on an installation of its own; `settings` may change between two commands."""

    def __init__(self, data_dir: Path, model: Path) -> None:
        self.data_dir = data_dir
        self.settings: dict[str, object] = {**TEST_SETTINGS, "data_dir": data_dir, "model": model, "port": 1}

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("THUMBLOOP_")}
        return clean | {f"THUMBLOOP_{name.upper()}": str(value) for name, value in self.settings.items()}

    def run(self, *words: str, stdin: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run to the end; the exit code must be `code`, and no error may be a traceback."""
        ended = subprocess.run(
            [*PROGRAM, *words],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert ended.returncode == code, f"{words}: {ended.stdout}{ended.stderr}"
        assert "Traceback" not in ended.stderr
        return ended

    def said(self, *words: str, stdin: str = "") -> str:
        return self.run(*words, stdin=stdin).stdout

    def refused(self, *words: str, stdin: str = "", code: int = 1) -> str:
        """The one line on stderr of a refused command."""
        (line,) = self.run(*words, stdin=stdin, code=code).stderr.splitlines()
        assert line.startswith("thumbloop: ")
        return line

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PROGRAM, *words], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )


@pytest.fixture
def thumbloop(tmp_path: Path, tiny_model: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", tiny_model)


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    """24 rated chats as a file."""
    file = tmp_path / "rated.jsonl"
    rows = [
        {"prompt": f"Question {n}", "completion": f"Answer {n}. " * 3, "label": n % 3 != 0} for n in range(24)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_help_and_lists_load_no_model_library() -> None:
    script = (
        "import sys\n"
        "from app.cli import cli\n"
        "from app.commands import versions\n"
        "versions.versions()\n"
        "print(*sorted({'torch', 'transformers', 'gradio', 'datasets'} & sys.modules.keys()))"
    )
    environment = os.environ | {"THUMBLOOP_DATA_DIR": os.devnull + "/none"}
    ended = subprocess.run(
        [sys.executable, "-c", script.replace("versions.versions()\n", "")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == []


def test_version_and_help(thumbloop: CommandLine) -> None:
    assert re.fullmatch(r"thumbloop \d+\.\d+\.\d+\n", thumbloop.said("--version"))
    assert "admin-link" in thumbloop.said("--help")
    assert "No such command" in thumbloop.run("nonsense", code=2).stderr
    assert not thumbloop.data_dir.exists()
