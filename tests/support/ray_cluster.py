"""A real Ray cluster on loopback: a head without processors, and nodes for jobs, by `ray start`."""

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
CPUS = 2  # of each node
STARTED = "Ray runtime started."
COMMON = ("--block", "--num-gpus=0", "--object-store-memory=80000000", "--disable-usage-stats")
COMMON += ("--min-worker-port=0", "--max-worker-port=0")


class RayNode:
    """`ray start` with these words, in a session of its own."""

    def __init__(self, output: Path, *words: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *COMMON, *words]
        command += [f"--dashboard-agent-listen-port={free_port()}"]
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                command,
                env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def works_on(self, job: str) -> bool:
        family = psutil.Process(self.process.pid).children(recursive=True)
        return any(job in process.cmdline() for process in family)

    def kill(self) -> None:
        """kill -9 of all that is on this machine of the cluster, jobs included."""
        if self.process.poll() is not None:
            return
        family = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for process in family:
            if process.is_running():
                process.kill()
        psutil.wait_procs(family, timeout=60)


class RayCluster:
    """Starts and stops; its address stays the same."""

    def __init__(self) -> None:
        self._dashboard, self._gcs, self._clients = (free_port() for _ in range(3))
        self.address = f"http://127.0.0.1:{self._dashboard}"
        self.headers = {"Authorization": f"Bearer {TOKEN}"}
        self._folder = Path(tempfile.mkdtemp(prefix="tl-ray-", dir="/tmp"))  # Ray has sockets there
        self._head: RayNode | None = None
        self.nodes: list[RayNode] = []

    def start(self) -> None:
        """Start the head and a node for jobs."""
        words = ["--head", "--num-cpus=0", f"--dashboard-port={self._dashboard}", f"--port={self._gcs}"]
        words += [f"--ray-client-server-port={self._clients}", "--dashboard-host=127.0.0.1"]
        self._head = RayNode(self._output, *words, f"--temp-dir={self._folder}")
        wait_until(self._ready, 120, self._output.read_text)
        self.add_node()

    def add_node(self) -> None:
        """Another machine for jobs. Two nodes that start at once may get in each other's way."""
        started = self._output.read_text().count(STARTED)
        self.nodes.append(RayNode(self._output, f"--num-cpus={CPUS}", f"--address=127.0.0.1:{self._gcs}"))
        wait_until(lambda: self._output.read_text().count(STARTED) > started, 120, self._output.read_text)

    def kill_nodes(self) -> None:
        while self.nodes:
            self.nodes.pop().kill()

    def kill(self) -> None:
        """kill -9 of the head and of all nodes, with their jobs."""
        self.kill_nodes()
        if self._head is not None:
            self._head.kill()

    def printed(self, job: str) -> str:
        """What a job has printed so far, also while no server copies it."""
        file = self._folder / f"session_latest/logs/job-driver-{job}.log"
        return file.read_text() if file.exists() else ""

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _output(self) -> Path:
        return self._folder / "output"

    def _ready(self) -> bool:
        assert self._head is not None
        assert self._head.process.poll() is None
        try:
            return httpx.get(f"{self.address}/api/version", headers=self.headers, **PLAIN).is_success
        except httpx.TransportError:
            return False
