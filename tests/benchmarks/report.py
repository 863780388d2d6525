"""What every benchmark prints: JSON with the figures and the machine they were measured on."""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from storage.settings.serving import DEFAULT_MODEL
from tests.support.live_server import LiveServer
from tests.support.samples import SHARED_DATA


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


def data_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of a command line that names a file of KTO rows."""

    def existing(name: str) -> Path:
        if not Path(name).exists():
            raise argparse.ArgumentTypeError(f"{name} does not exist; name KTO rows as JSON lines")
        return Path(name)

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=existing, default=str(SHARED_DATA / "kto_mix_sample.jsonl"))
    return parser


def store_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of a command line that may name a database, for `empty_store`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--database-url", help="an empty PostgreSQL database; default SQLite")
    return parser


@contextmanager
def empty_store(database_url: str | None) -> Iterator[tuple[str, str]]:
    """A database's address, by default of SQLite, and a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="thumbloop-bench-") as folder:
        yield database_url or f"sqlite:///{folder}/bench.db", folder


def arrival_figures(firsts: Sequence[float], arrivals: Sequence[Sequence[float]]) -> dict[str, float]:
    """Of several streams: the seconds until each one's first token, and the times at which text arrived."""
    gaps = sorted(b - a for times in arrivals for a, b in itertools.pairwise(times))
    return {
        "first_token_s_median": round(statistics.median(firsts), 3),
        "first_token_s_worst": round(max(firsts), 3),
        "gap_ms_p50": round(1000 * gaps[len(gaps) // 2], 1),
        "gap_ms_p99": round(1000 * gaps[len(gaps) * 99 // 100], 1),
    }


def speed(tokens: int, seconds: float, cpu_seconds: float) -> dict[str, float]:
    """By the clock, and by processor time, which other processes on the machine disturb less."""
    return {
        "tokens_per_s": round(tokens / seconds, 1),
        "tokens_per_cpu_s": round(tokens / cpu_seconds, 1),
    }


def in_a_process(module: str, function: str, *arguments: str) -> dict[str, Any]:
    """What the function prints as JSON in a process of its own, whose memory is nobody else's."""
    command = [sys.executable, "-c", f"from {module} import {function}; {function}(*{arguments!r})"]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def memory_mib(field: str) -> float:
    """Of /proc, because getrusage counts what the process that started this one held."""
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:")
    ]
    return int(line.split()[1]) / 1024


def _machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "trl")},
    }
