"""`thumbloop` and its trainers, forked from a process that has imported their libraries: a start is quick.

The standard library's fork server makes the processes, and a launcher keeps it: one light process for the
whole test session, which tests ask for programs, and servers under test for trainers. What runs in a fork is
what `python -m app.cli …` and `python -m trainer …` run, in a session, an environment and a working directory
of its own. A test whose subject is the start itself uses `subprocess` as anybody does.
"""

import contextlib
import gc
import importlib
import importlib.util
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.managers import BaseManager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from filelock import FileLock

from storage.db.ids import new_id
from storage.registry.artifacts import Artifacts
from storage.settings import Settings
from tests.support import REPOSITORY
from trainer.runs.executors import child_environment

# What the programs import sooner or later.
IMPORTS = (
    "app.cli",
    "app.commands.sweep",
    "app.commands.train_file",
    "trainer.judge.servers",
    "app.server",
    "app.services",
    "datasets",
    "peft",
    "pyarrow.parquet",
    "storage.backup",
    "trainer.__main__",
    "trainer.offline.train_file",
    "trainer.runs.attempt",
    "transformers.models.llama.modeling_llama",
    "uvicorn",
)
ADDRESS = "TEST_LAUNCHER"  # the variable that tells every process of the session where the launcher listens
KEY = b"thumbloop"  # its socket is in a folder that only this user can open


class Launcher:
    """Starts programs and knows how they ended. Lives in a process of its own, with a thread a client."""

    def __init__(self) -> None:
        for name in IMPORTS:  # the fork server goes on without a module that it does not find
            ours = name.startswith(("app.", "storage.", "trainer."))
            assert not ours or importlib.util.find_spec(name), name
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(IMPORTS))
        self._processes: dict[int, BaseProcess] = {}
        self._trainers: dict[int, str] = {}  # the data directory of each
        self._lock = threading.Lock()  # multiprocessing keeps its books for one thread

    def start(
        self, module: str, words: list[str], environment: dict[str, str], folder: str, files: list[str]
    ) -> int:
        """The id of a process that runs the module in this folder, with these files as its standard ones."""
        with self._lock:
            process = self._context.Process(target=_become, args=(module, words, environment, folder, files))
            process.start()
            assert process.pid is not None
            self._processes[process.pid] = process
            if module == "trainer":
                self._trainers[process.pid] = environment["THUMBLOOP_DATA_DIR"]
            return process.pid

    def exit_code(self, pid: int, wait_seconds: float = 0) -> int | None:
        """None while it runs, for at most that time."""
        process = self._processes[pid]
        wait_for_any([process.sentinel], wait_seconds)
        with self._lock:
            return process.exitcode

    def trainers(self, data_dir: str) -> list[int]:
        """The ids of the trainers that work there now."""
        started = list(self._trainers.items())  # another thread may start one now
        return [pid for pid, folder in started if folder == data_dir and self._runs(pid)]

    def _runs(self, pid: int) -> bool:
        return self.exit_code(pid) is None

    def kill_all(self) -> None:
        """End every program that still runs, with all that it started in its session."""
        for pid in self._processes:
            if self._runs(pid):
                with contextlib.suppress(ProcessLookupError):  # it ended just now
                    os.killpg(pid, signal.SIGKILL)


def _become(
    module: str, words: list[str], environment: dict[str, str], folder: str, files: list[str]
) -> None:
    """In the fork: be the program, to its end."""
    gc.freeze()  # what was imported needs no more looking through, which would copy its memory
    os.setsid()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # the launcher ignores it, and forks inherit that
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, file in enumerate(files):
        opened = os.open(file, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = [module, *words]
    if "libfaketime" in environment.get("LD_PRELOAD", ""):
        time.sleep = _sleep
    if module == "trainer" or words[:1] in (["train"], ["sweep"]):
        import transformers

        transformers.logging.set_verbosity_error()  # a program says so in the environment before it imports
    sys.exit(importlib.import_module({"trainer": "trainer.__main__"}.get(module, module)).main())


def _sleep(seconds: float) -> None:
    """libfaketime 0.9.10 leaves the monotonic clock alone if told so, and then each `time.sleep` fails."""
    threading.Event().wait(seconds)


class _Manager(BaseManager):
    """Lets other processes call the launcher."""


@cache
def _the_launcher() -> Launcher:
    return Launcher()


_Manager.register("launcher", callable=_the_launcher, exposed=("start", "exit_code", "trainers", "kill_all"))


def _end_with_the_session(folder: str) -> None:
    """In the launcher's process: a session that is killed leaves nothing behind."""
    session = multiprocessing.parent_process()
    assert session is not None

    def watch() -> None:
        session.join()
        _the_launcher().kill_all()
        with contextlib.suppress(OSError):
            pid = int((Path(folder) / "postgres" / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def launcher() -> Iterator[None]:
    """While this lasts, this process and those that it starts can start programs."""
    # In /tmp, as the path of a Unix socket may have 107 characters only.
    with tempfile.TemporaryDirectory(prefix="tl-", dir="/tmp") as folder:
        address = f"{folder}/launcher/socket"
        Path(address).parent.mkdir(mode=0o700)
        manager = _Manager(address=address, authkey=KEY, ctx=multiprocessing.get_context("spawn"))
        manager.start(_end_with_the_session, (folder,))
        os.environ[ADDRESS] = address
        try:
            yield
        finally:
            del os.environ[ADDRESS]
            any_manager: Any = manager
            any_manager.launcher().kill_all()
            manager.shutdown()


def session_folder() -> Path:
    """A folder that all test processes of the session share; its path is short."""
    return Path(os.environ[ADDRESS]).parents[1]


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder of the session that `make` fills for the first test process that asks."""
    folder = session_folder() / name
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder


@cache
def _connected() -> Any:
    manager: Any = _Manager(address=os.environ[ADDRESS], authkey=KEY)
    manager.connect()
    return manager.launcher()


class Program:
    """A running program, with what `subprocess.Popen` offers for one."""

    def __init__(
        self,
        module: str,
        *words: str,
        environment: Mapping[str, str],
        output: Path,
        errors: Path | None = None,
        stdin: str | Path = os.devnull,
        folder: Path = REPOSITORY,
    ) -> None:
        self.args = [module, *words]
        self.output = output
        self.returncode: int | None = None
        files = [str(Path(file).absolute()) for file in (stdin, output, errors or output)]
        for file in files[1:]:
            Path(file).touch()  # whoever waits for a word in it may look before the program writes one
        self.pid: int = _connected().start(module, list(words), dict(environment), str(folder), files)

    def poll(self) -> int | None:
        return self._ask(0)

    def wait(self, timeout: float = 240) -> int:
        """Raises subprocess.TimeoutExpired."""
        code = self._ask(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout, self.output.read_bytes())
        return code

    def _ask(self, seconds: float) -> int | None:
        if self.returncode is None:
            self.returncode = _connected().exit_code(self.pid, seconds)
        return self.returncode

    def wait_for(self, text: str, timeout: float = 240) -> None:
        """Until it has printed that."""
        deadline = time.monotonic() + timeout
        while text not in self.printed():
            assert self.poll() is None, f"it ended without {text!r}: {self.printed()}"
            assert time.monotonic() < deadline, f"no {text!r} within {timeout} s: {self.printed()}"
            time.sleep(0.05)

    def printed(self) -> str:
        return self.output.read_text()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def trainers(data_dir: Path) -> list[int]:
    """The ids of the forked trainers that work on this data directory now."""
    pids: list[int] = _connected().trainers(str(data_dir))
    return pids


def free_port() -> int:
    """A port below those that the system gives to connections: none takes it while a server starts again.

    Each of pytest's workers draws from its own: what one has found free, no other takes before it is used.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 11
    while True:
        port = random.SystemRandom().randrange(10_000 + 2_000 * worker, 12_000 + 2_000 * worker)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def run_command(
    *words: str,
    environment: Mapping[str, str],
    stdin: str = "",
    folder: Path = REPOSITORY,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """`thumbloop` to its end; with `check`, that must be a good one."""
    with tempfile.TemporaryDirectory(prefix="tl-command-") as files:
        given, output, errors = (Path(files) / name for name in ("stdin", "stdout", "stderr"))
        given.write_text(stdin)
        where = {"output": output, "errors": errors, "stdin": given, "folder": folder}
        program = Program("app.cli", *words, environment=environment, **where)
        try:
            code = program.wait()
        finally:
            program.kill()
        done = subprocess.CompletedProcess(words, code, output.read_text(), errors.read_text())
    if check:
        assert done.returncode == 0, done.stderr
    return done


def start_together(
    count: int,
    module: str,
    *words: str,
    environment: Mapping[str, str],
    output: Path,
    folders: Sequence[Path] = (),
) -> list[Program]:
    """The processes of one training, in order, each with the environment that torchrun gives it.

    `folders` are their working directories.
    """
    group = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
    group |= {"MASTER_PORT": free_port()}
    started = []
    for rank, folder in enumerate(folders or [REPOSITORY] * count):
        own = {name: str(value) for name, value in (group | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        where = {"output": output.with_suffix(f".{rank}.output"), "folder": folder}
        started.append(Program(module, *words, environment={**environment, **own}, **where))
    return started


def run_together(
    count: int, module: str, *words: str, environment: Mapping[str, str], output: Path, timeout: float = 240
) -> str:
    """Processes of one training to their good end; returns what they printed."""
    started = start_together(count, module, *words, environment=environment, output=output)
    try:
        for program in started:
            assert program.wait(timeout) == 0, program.printed()
        return "".join(program.printed() for program in started)
    finally:
        for program in started:
            program.kill()


class ForkedExecutor:
    """The executor of the servers under test: as LocalExecutor, with trainers that are forked."""

    def __init__(self, settings: Settings) -> None:
        self._environment = child_environment(settings)
        self._artifacts = Artifacts(settings.data_dir)
        self._trainers: dict[str, Program] = {}

    def start(self, run_id: str) -> str:
        owner = f"{os.uname().nodename}-{new_id()}"
        log = self._artifacts.run_folder(run_id) / "train.log"
        words = ("run", run_id, "--owner", owner)
        self._trainers[run_id] = Program("trainer", *words, environment=self._environment, output=log)
        return owner

    def alive(self, run_id: str) -> bool:
        return run_id in self._trainers and self._trainers[run_id].poll() is None

    def terminate(self, run_id: str) -> None:
        if run_id in self._trainers:
            self._trainers[run_id].terminate()

    def kill(self, run_id: str) -> None:
        if self.alive(run_id):
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.killpg(self._trainers[run_id].pid, signal.SIGKILL)
