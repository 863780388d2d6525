"""Starts `thumbloop` and its trainers by forking a process that has imported everything: a start is quick.

What runs in the fork is what `python -m app.cli …`, `python -m trainer …` and torchrun run, in a session, an
environment and a working directory of its own, with the files and pipes that were asked for; only the
seconds of importing torch, transformers, TRL and Gradio are spent once for all tests. While `forged()`
lasts, `subprocess.Popen` does it for these commands, also in the processes that were so started: a server's
trainers are forked too. Anything else, a terminal, and an environment that libraries may read while they
are imported get a plain process, and so does everything where THUMBLOOP_TEST_FORGE=0.

All test processes share one forge, at the socket in the folder that THUMBLOOP_TEST_FORGE_AT names; the first
that needs it makes it, and it ends with the last.
"""

import contextlib
import fcntl
import gc
import importlib
import inspect
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import REPOSITORY
from tests.support.forked_program import become

PROGRAMS = ("app.cli", "trainer", "torch.distributed.run")
# What these import sooner or later; not they themselves, which runpy runs.
IMPORTS = (
    "app.commands.sweep",
    "app.commands.train_file",
    "app.server",
    "app.services",
    "datasets",
    "peft",
    "pyarrow.parquet",
    "storage.backup",
    "trainer.runs.attempt",
    "trainer.offline.train_file",
    "transformers.models.llama.modeling_llama",
    "uvicorn",
)
PACKET = 1 << 17  # bytes that a request may have
ENVIRONMENT = dict(os.environ)  # before any test changed it
Plain = subprocess.Popen


class Popen(Plain):  # type: ignore[type-arg]
    """`subprocess.Popen`, with a fork of the forge where that does."""

    _handle: int | None = None

    def _execute_child(self, *given: Any) -> None:
        parent = super()._execute_child  # type: ignore[misc]
        asked = inspect.signature(parent).bind(*given).arguments
        files = [
            own if fd == -1 else fd
            for own, fd in enumerate((asked["p2cread"], asked["c2pwrite"], asked["errwrite"]))
        ]
        forge = Forge.get() if _words(asked) and not any(map(os.isatty, files)) else None
        # Another environment might have made an import another one.
        if forge is None or _matters(asked["env"] or os.environ) != _matters(ENVIRONMENT):
            parent(*given)
            return
        request = {
            "words": _words(asked),
            "env": {str(name): str(value) for name, value in (asked["env"] or os.environ).items()},
            "folder": str(asked["cwd"] or Path.cwd()),
        }
        self.pid, self._handle = forge.start(request, files)
        self._child_created = True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(asked[end] for end in ends))  # type: ignore[attr-defined]

    def _internal_poll(self, *arguments: Any, **named: Any) -> int | None:
        if self._handle is None:
            return super()._internal_poll(*arguments, **named)  # type: ignore[misc]
        if self.returncode is None and select.select([self._handle], [], [], 0)[0]:
            self._end()
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self._handle is None:
            return super()._wait(timeout)  # type: ignore[misc]
        if self.returncode is None:
            if not select.select([self._handle], [], [], timeout)[0]:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
            self._end()
        return self.returncode

    def _end(self) -> None:
        forge = Forge.get()
        assert forge is not None
        self.returncode = forge.ask({"ended": self.pid})[0]
        assert self._handle is not None
        os.close(self._handle)

    def send_signal(self, sig: int) -> None:
        if self._handle is None:
            super().send_signal(sig)
        elif self.poll() is None:
            signal.pidfd_send_signal(self._handle, sig)


@dataclass
class Forge:
    """A line to the process that forks. Each process that it forked has one of its own."""

    line: socket.socket

    def __post_init__(self) -> None:
        self._turn = threading.Lock()

    @classmethod
    def get(cls) -> "Forge | None":
        """The one of this process, which ends with it; None where plain processes are wanted."""
        global _forge
        if os.environ.get("THUMBLOOP_TEST_FORGE") == "0" or not hasattr(os, "pidfd_open"):
            return None
        if _forge is None:
            _forge = cls(_connect(Path(os.environ["THUMBLOOP_TEST_FORGE_AT"])))
        return _forge

    def start(self, request: dict[str, Any], files: list[int]) -> tuple[int, int]:
        """The pid of a process with these files as its first ones, and a pidfd of it."""
        pid, handle = self.ask(request, files)
        return pid, handle

    def ask(self, request: dict[str, Any], files: list[int] | None = None) -> tuple[Any, Any]:
        with self._turn:
            socket.send_fds(self.line, [json.dumps(request).encode()], files or [])
            answer, handles, *_ = socket.recv_fds(self.line, PACKET, 1)
        return json.loads(answer), handles[0] if handles else None


_forge: Forge | None = None


def _connect(folder: Path) -> socket.socket:
    """A line to the forge of that folder, which is made if there is none."""
    address = str(folder / "socket")
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            line.connect(address)
            return line
        Path(address).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
            door.bind(address)
            door.listen()
            Plain(
                [sys.executable, "-c", f"from {__name__} import main; main({door.fileno()})"],
                cwd=REPOSITORY,
                env=ENVIRONMENT,
                pass_fds=[door.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            line.connect(address)  # it answers when it has imported everything
    return line


def _words(asked: Mapping[str, Any]) -> list[str]:
    """The module that Python is asked to run, and its arguments; none if it is no module of ours."""
    words = asked["args"]
    if isinstance(words, str | bytes | os.PathLike) or asked["pass_fds"] or asked["preexec_fn"]:
        return []
    python, *words = map(str, words)
    words = words[1:] if words[:1] == ["-u"] else words
    return words[1:] if python == sys.executable and words[:1] == ["-m"] and words[1] in PROGRAMS else []


def _matters(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that libraries may read while they are imported: not ours, nor what torch sets."""
    late = ("THUMBLOOP_", "PYTEST_", "PYTHONPATH", "TORCHELASTIC_", "TORCH_NCCL_", "MASTER_")
    late += ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "TORCHINDUCTOR_")
    return {name: value for name, value in environment.items() if not name.startswith(late)}


def trainers(data_dir: str) -> list[int]:
    """The pids of forked trainers that work there now."""
    return [] if _forge is None else _forge.ask({"trainers": data_dir})[0]


@contextlib.contextmanager
def forged() -> Iterator[None]:
    """While this lasts, `subprocess.Popen` forks what it can."""
    subprocess.Popen = Popen  # type: ignore[misc]
    yield
    subprocess.Popen = Plain  # type: ignore[misc]


@dataclass
class _Fork:
    request: dict[str, Any]
    handle: int


class _Smith:
    """The process that forks. It has one thread, for only such a process forks well."""

    def __init__(self, door: socket.socket) -> None:
        for name in IMPORTS:
            importlib.import_module(name)
        gc.collect()
        gc.freeze()
        self._door = door
        self._selector = selectors.DefaultSelector()
        self._selector.register(door, selectors.EVENT_READ)
        self._makers: set[socket.socket] = set()
        self._living: dict[int, _Fork] = {}
        self._codes: dict[int, int] = {}

    def work(self) -> dict[str, Any]:
        """Returns in each fork, what that is to become."""
        while True:
            for key, _ in self._selector.select():
                if isinstance(key.fileobj, int):
                    self._reap(key.data)
                elif key.fileobj is self._door:
                    line, _ = self._door.accept()
                    self._makers.add(line)
                    self._selector.register(line, selectors.EVENT_READ)
                elif (asked := self._hear(key.fileobj)) is not None:
                    return asked

    def _hear(self, line: Any) -> dict[str, Any] | None:
        packet = b""
        with contextlib.suppress(OSError):  # whoever asked was killed
            packet, files, *_ = socket.recv_fds(line, PACKET, 3)
            if packet:
                return self._answer(line, json.loads(packet), files)
        if not packet:
            self._selector.unregister(line)
            line.close()
            if line in self._makers:
                self._makers.remove(line)
                if not self._makers:
                    os._exit(0)
        return None

    def _answer(
        self, line: socket.socket, request: dict[str, Any], files: list[int]
    ) -> dict[str, Any] | None:
        handles: list[int] = []
        answer: Any
        if "ended" in request:
            self._reap(request["ended"])
            answer = self._codes.pop(request["ended"])
        elif "trainers" in request:
            answer = [
                pid
                for pid, fork in self._living.items()
                if fork.request["words"][0] == "trainer"
                and fork.request["env"].get("THUMBLOOP_DATA_DIR") == request["trainers"]
                and not select.select([fork.handle], [], [], 0)[0]
            ]
        else:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            answer = os.fork()
            if answer == 0:
                ours.close()
                self._leave(theirs, files)
                return request
            theirs.close()
            self._selector.register(ours, selectors.EVENT_READ)
            handles = [os.pidfd_open(answer)]
            self._living[answer] = _Fork(request, handles[0])
            self._selector.register(handles[0], selectors.EVENT_READ, answer)
        for file in files:
            os.close(file)
        socket.send_fds(line, [json.dumps(answer).encode()], handles)
        return None

    def _reap(self, pid: int) -> None:
        fork = self._living.pop(pid, None)
        if fork is not None:
            self._selector.unregister(fork.handle)
            os.close(fork.handle)
            self._codes[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _leave(self, line: socket.socket, files: list[int]) -> None:
        """In a fork: keep nothing of the forge but a line to it."""
        global _forge
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, int):
                os.close(key.fileobj)
            else:
                key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        _forge = Forge(line)


def main(door: int) -> None:
    with forged():  # some libraries keep Popen as it is when they are imported
        become(_Smith(socket.socket(fileno=door)).work())
