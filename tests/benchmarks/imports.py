"""Imports of large files: rows per second, growth of memory, and the same file again.

Each import runs in its own process; memory is what the process grew by beyond its imports.
"""

import json
import random
import time
from pathlib import Path
from typing import Any

from storage.db.database import Database
from storage.imports.importer import import_file
from tests.benchmarks.report import empty_store, in_a_process, memory_mib, print_report, store_parser

WORDS = ("the", "river", "ran", "past", "seven", "quiet", "houses", "and", "nobody", "asked", "where")
WORDS_IN_MESSAGE = 80


def main() -> None:
    arguments = store_parser(__doc__)
    arguments.add_argument("--rows", type=int, nargs="+", default=[20_000])
    given = arguments.parse_args()
    figures: dict[str, Any] = {}
    for rows in given.rows:
        with empty_store(given.database_url) as (address, folder):
            path = Path(folder) / "rows.jsonl"
            _write(path, rows)
            figures[f"{rows} rows"] = {
                "file_mb": round(path.stat().st_size / 1e6, 1),
                **{
                    turn: in_a_process(__spec__.name, "measure", address, str(path))
                    for turn in ("first", "again")
                },
            }
    print_report("imports", figures)


def _write(path: Path, rows: int) -> None:
    chance = random.Random(0)
    with path.open("w") as file:
        for n in range(rows):
            question, replied = (" ".join(chance.choices(WORDS, k=WORDS_IN_MESSAGE)) for _ in range(2))
            row = {
                "prompt": [{"role": "user", "content": f"{n} {question}"}],
                "completion": [{"role": "assistant", "content": replied}],
                "label": n % 3 > 0,
            }
            file.write(json.dumps(row) + "\n")


def measure(address: str, path: str) -> None:
    """Import the file and print the figures; runs in a process of its own."""
    database = Database(address)
    database.migrate()
    before = memory_mib("VmRSS")
    began = time.monotonic()
    report = import_file(database, Path(path))
    seconds = time.monotonic() - began
    grown = memory_mib("VmHWM") - before
    database.close()
    figures = {
        "accepted": report.accepted,
        "duplicates": report.duplicates,
        "rows_per_s": round(report.records / seconds),
        "memory_growth_mib": round(grown, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
