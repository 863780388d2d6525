"""Imports of large files: rows per second, growth of memory, and the same file again.

Each import runs in its own process; memory is what the process grew by beyond its imports.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from storage.db.database import Database
from storage.imports.importer import import_file
from tests.benchmarks.report import print_report

WORDS = ("the", "river", "ran", "past", "seven", "quiet", "houses", "and", "nobody", "asked", "where")
WORDS_IN_MESSAGE = 80


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, nargs="+", default=[20_000])
    arguments.add_argument("--database-url", help="an empty PostgreSQL database; default SQLite")
    arguments.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.file is not None:
        print(json.dumps(_measure(given.database_url, given.file)))
        return
    figures: dict[str, Any] = {}
    for rows in given.rows:
        with tempfile.TemporaryDirectory(prefix="thumbloop-bench-") as folder:
            path = Path(folder) / "rows.jsonl"
            _write(path, rows)
            address = given.database_url or f"sqlite:///{folder}/bench.db"
            figures[f"{rows} rows"] = {
                "file_mb": round(path.stat().st_size / 1e6, 1),
                "first": _in_a_process(address, path),
                "again": _in_a_process(address, path),
            }
    print_report("imports", figures)


def _write(path: Path, rows: int) -> None:
    chance = random.Random(0)
    with path.open("w") as file:
        for n in range(rows):
            asked, replied = (" ".join(chance.choices(WORDS, k=WORDS_IN_MESSAGE)) for _ in range(2))
            row = {
                "prompt": [{"role": "user", "content": f"{n} {asked}"}],
                "completion": [{"role": "assistant", "content": replied}],
                "label": n % 3 > 0,
            }
            file.write(json.dumps(row) + "\n")


def _in_a_process(address: str, path: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.imports", "--file", path, "--database-url", address]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _measure(address: str, path: Path) -> dict[str, Any]:
    database = Database(address)
    database.migrate()
    before = _memory_kib("VmRSS")
    began = time.monotonic()
    report = import_file(database, path)
    seconds = time.monotonic() - began
    grown = _memory_kib("VmHWM") - before
    database.close()
    return {
        "accepted": report.accepted,
        "duplicates": report.duplicates,
        "rows_per_s": round(report.records / seconds),
        "memory_growth_mib": round(grown / 1024, 1),
    }


def _memory_kib(name: str) -> int:
    """Of /proc, because getrusage counts what the process that started this one held."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


if __name__ == "__main__":
    main()
