"""What every benchmark prints: JSON with the figures and the machine they were measured on."""

import json
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from storage.settings import DEFAULT_MODEL
from tests.support.live_server import LiveServer


def print_report(name: str, figures: dict[str, Any]) -> None:
    print(json.dumps({"benchmark": name, "machine": _machine(), **figures}, indent=2))


@contextmanager
def server_with(**settings: object) -> Iterator[LiveServer]:
    """A server with the default model and its own data directory; started by the benchmark."""
    with tempfile.TemporaryDirectory(prefix="thumbloop-bench-") as folder:
        server = LiveServer(
            {
                "data_dir": Path(folder) / "data",
                "model": DEFAULT_MODEL,
                "precision": "auto",
                "learning_rate": 5e-5,
                "lora_rank": 16,
                "max_length": 1024,
                "lease_seconds": 30,
                "executor": "local",
                **settings,
            }
        )
        try:
            yield server
        finally:
            server.close()


def _machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "trl")},
    }
