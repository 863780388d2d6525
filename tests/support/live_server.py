"""A real `thumbloop serve` process for tests: start, stop, kill, and HTTP over a socket."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from storage.db.database import open_database
from storage.people.tokens import create_token
from storage.people.users import ensure_user
from storage.settings import Settings, in_environment
from tests.support import programs

T = TypeVar("T")
# A tiny model learns nothing at the default rate; without a schedule nothing runs unasked.
TEST_SETTINGS: dict[str, object] = {
    "schedule": "",
    "gate_prompts": 0,
    "gate_max_prompts": 0,
    "sampled_prompts": 0,
    "nll_weight": 0.0,
    "precision": "fp32",
    "max_new_tokens": 24,
    "learning_rate": 1e-3,
    "lora_rank": 4,
    "max_length": 256,
    "lease_seconds": 5,
}
FORKED = "tests.support.programs:ForkedExecutor"
# For plain HTTP: otherwise each client reads all certificates first, which takes 25 ms of CPU time.
PLAIN: Any = {"verify": False}


StartServer = Callable[..., "LiveServer"]


class LiveServer:
    """One server on a free port with a data directory of its own.

    It is forked, and so are its trainers; with the setting executor="local" both start as anybody's do.
    """

    def __init__(self, settings: Mapping[str, object]) -> None:
        values = {**TEST_SETTINGS, "port": programs.free_port(), "executor": FORKED, **settings}
        texts = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        self.settings = Settings(**texts)  # type: ignore[arg-type]
        self.url = f"http://127.0.0.1:{self.settings.port}"
        self.log = Path(self.settings.data_dir).with_suffix(".server.log")
        self.more_environment: dict[str, str] = {}
        self.process: programs.Program | subprocess.Popen[bytes] | None = None
        self._tokens: dict[str, str] = {}

    def __enter__(self) -> "LiveServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a command line needs to work on the same installation."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("THUMBLOOP_")}
        given = self.settings.model_dump(mode="json", exclude_unset=True)
        return clean | in_environment(given) | self.more_environment

    def start(self, *, wait: bool = True) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.settings.executor != "local":
            self.process = programs.Program("app.cli", "serve", environment=self.environment, output=self.log)
        else:
            with self.log.open("ab") as output:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "app.cli", "serve"],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds: float = 120) -> None:
        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the server ended early:\n{self.log.read_text()}"
            return answers(f"{self.url}/readyz")

        wait_until(ready, seconds, lambda: self.log.read_text())

    def stop(self) -> int:
        """Ask it to end, as Ctrl-C does; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def drain(self) -> None:
        """Ask it to end as a service manager does: the replies under way end first."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=120) == -signal.SIGTERM

    def kill(self) -> None:
        """kill -9 of the server alone; a trainer lives on in a session of its own."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def trainers(self) -> list[psutil.Process]:
        """Trainer processes that work on this data directory, whoever started them."""
        forked = programs.trainers(self.settings.data_dir) if self.settings.executor == FORKED else []
        found = []
        for pid in forked:
            with contextlib.suppress(psutil.Error):
                found.append(psutil.Process(pid))
        for process in psutil.process_iter(["cmdline"]):
            with contextlib.suppress(psutil.Error):
                works_here = process.environ().get("THUMBLOOP_DATA_DIR") == str(self.settings.data_dir)
                if works_here and "trainer" in (process.info["cmdline"] or []):
                    found.append(process)
        return found

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for trainer in self.trainers():
            with contextlib.suppress(psutil.Error):
                trainer.kill()

    def token(self, role: str = "admin", name: str | None = None) -> str:
        """An API token of a person with that role, made through the storage layer."""
        name = name or role
        if name not in self._tokens:
            with contextlib.closing(open_database(self.settings)) as database, database.write() as session:
                user = ensure_user(session, name, role)
                self._tokens[name] = create_token(session, user.id, name="test")[1]
        return self._tokens[name]

    def admin_link(self) -> str:
        with contextlib.closing(open_database(self.settings)) as database, database.write() as session:
            user = ensure_user(session, "admin", "admin")
            plain = create_token(session, user.id, name="link", kind="login", ttl=timedelta(hours=1))[1]
        return f"{self.url}/admin?token={plain}"

    def client(self, role: str = "admin", name: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token(role, name)}"}
        return httpx.Client(base_url=self.url, headers=headers, **PLAIN, timeout=120)

    def visit(self, **options: Any) -> httpx.Client:
        """A browser or program that has not signed in."""
        return httpx.Client(base_url=self.url, **{**PLAIN, "timeout": 60, **options})


def faked_clock(library: Path, seconds: int) -> dict[str, str]:
    """The environment of a program whose wall clock is that far ahead; needs executor="local"."""
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it has ended, however that ended."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def answers(url: str) -> bool:
    """Whether a server is there that answers this well."""
    with contextlib.suppress(httpx.TransportError):
        return get(url).is_success
    return False


def get(url: str, **options: Any) -> httpx.Response:
    """A request that a busy machine gets time for: httpx's own limit is five seconds."""
    return httpx.get(url, **{**PLAIN, "timeout": 60, **options})


def wait_until(true: Callable[[], Any], seconds: float = 60, explain: Callable[[], str] = lambda: "") -> Any:
    """Poll until the result is true and return it; the deadline only bounds a failure."""
    deadline = time.monotonic() + seconds
    while True:
        result = true()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {seconds} s. {explain()}"
        time.sleep(0.1)


def at_once(number: int, act: Callable[[int], T]) -> list[T]:
    """What `act` returns for 0, 1 and so on, each in a thread, all at the same moment."""
    barrier = threading.Barrier(number)

    def act_with_the_others(index: int) -> T:
        barrier.wait()
        return act(index)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(act_with_the_others, range(number)))


def read_events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """The (event, data) pairs of a server-sent event stream."""
    event = "message"
    for line in response.iter_lines():
        if line.startswith("event:"):
            event = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            yield event, json.loads(line.removeprefix("data:"))
