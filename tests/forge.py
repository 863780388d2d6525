"""Starts `thumbloop` processes by forking one that has imported everything, so that each start is quick.

What runs in the fork is what `python -m app.cli …` runs, in a session, an environment and a log of its
own; only the seconds of importing torch, transformers and Gradio are spent once for all tests.
THUMBLOOP_TEST_FORGE=0 starts plain processes instead.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What a server imports sooner or later.
IMPORTS = (
    "app.cli",
    "app.server",
    "app.services",
    "uvicorn",
    "peft",
    "transformers.models.llama.modeling_llama",
)


class ForgedProcess:
    """As much of subprocess.Popen as the tests use."""

    def __init__(self, forge: "Forge", pid: int) -> None:
        self.forge = forge
        self.pid = pid
        self.returncode: int | None = None
        self._handle = os.pidfd_open(pid)  # the forge reaps only when asked, so this cannot be another's

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(timeout=0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._handle], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("thumbloop", timeout or 0)
            self.returncode = int(self.forge.ask({"reap": self.pid}))
            os.close(self._handle)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forge:
    """The process that forks; it ends with the one that made it."""

    _one: "Forge | None" = None

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forge", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._lines = ours.makefile("rw")

    @classmethod
    def get(cls) -> "Forge":
        """The one of this process."""
        if cls._one is None:
            cls._one = cls()
        return cls._one

    def start(self, words: Sequence[str], env: Mapping[str, str], log: Path) -> ForgedProcess:
        """Run `thumbloop WORDS`; its output is appended to `log`."""
        request = {"words": list(words), "env": dict(env), "log": str(log), "folder": str(Path.cwd())}
        return ForgedProcess(self, int(self.ask(request)))

    def ask(self, request: dict[str, Any]) -> Any:
        self._lines.write(json.dumps(request) + "\n")
        self._lines.flush()
        return json.loads(self._lines.readline())


def start_thumbloop(words: Sequence[str], env: Mapping[str, str], log: Path) -> Any:
    """A process of `thumbloop WORDS`, as a ForgedProcess or a subprocess.Popen."""
    if os.environ.get("THUMBLOOP_TEST_FORGE", "1") != "0":
        return Forge.get().start(words, env, log)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "app.cli", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            start_new_session=True,
        )


def main() -> None:
    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()
    channel = socket.socket(fileno=int(sys.argv[1]))
    lines = channel.makefile("rw")
    for line in lines:
        request = json.loads(line)
        if "reap" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                channel.detach()
                os.close(int(sys.argv[1]))
                _become(request)
        lines.write(f"{answer}\n")
        lines.flush()


def _become(request: dict[str, Any]) -> None:
    os.setsid()
    output = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["folder"])
    sys.argv = ["thumbloop", *request["words"]]
    code: Any = 0
    try:
        importlib.import_module("app.cli").main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
