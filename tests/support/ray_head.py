"""A real Ray head on loopback, with a worker node in it: what `ray start --head` starts."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import psutil

from tests.support.live_server import PLAIN, die_with_parent, wait_until
from tests.support.programs import free_port

TOKEN = "0123456789abcdef" * 2  # Ray wants so many characters


class RayHead:
    """Starts and stops; its address stays the same."""

    def __init__(self) -> None:
        self._ports = [free_port() for _ in range(4)]
        self.address = f"http://127.0.0.1:{self._ports[0]}"
        self.headers = {"Authorization": f"Bearer {TOKEN}"}
        self._folder = Path(tempfile.mkdtemp(prefix="tl-ray-", dir="/tmp"))  # Ray has sockets there
        self._processes: list[psutil.Process] = []
        self._head: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        dashboard, gcs, clients, agent = self._ports
        words = ["--head", "--block", "--num-cpus=2", "--num-gpus=0", "--object-store-memory=80000000"]
        words += [f"--dashboard-port={dashboard}", f"--port={gcs}", f"--ray-client-server-port={clients}"]
        words += [f"--dashboard-agent-listen-port={agent}", "--min-worker-port=0", "--max-worker-port=0"]
        words += ["--dashboard-host=127.0.0.1", f"--temp-dir={self._folder}", "--disable-usage-stats"]
        with (self._folder / "output").open("ab") as output:
            self._head = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", *words],
                env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        wait_until(self._ready, 120, (self._folder / "output").read_text)

    def _ready(self) -> bool:
        assert self._head is not None
        assert self._head.poll() is None
        try:
            return httpx.get(f"{self.address}/api/version", headers=self.headers, **PLAIN).is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """kill -9 of the head, its node and their jobs."""
        assert self._head is not None
        family = psutil.Process(self._head.pid).children(recursive=True)
        os.killpg(self._head.pid, signal.SIGKILL)
        self._head.wait()
        for process in family:
            if process.is_running():
                process.kill()
        psutil.wait_procs(family, timeout=60)

    def close(self) -> None:
        if self._head is not None and self._head.poll() is None:
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
