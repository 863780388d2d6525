"""Training cycles in a growing store: with a row budget, a run's time must not follow the number of votes.

Each cycle adds votes and runs twice: once on the votes that are new, and once more on the same snapshot, when
every reference is in the cache. At the end, what reading all votes would take. A tiny model with random
weights, unless another is named: the store is what is measured here, and not the model.
"""

import argparse
import logging
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.db.database import Database, open_database
from storage.registry import model_versions, training_runs
from storage.settings import Settings
from tests.benchmarks.export import REPLIES, add_chats, add_people, rated_chats
from tests.benchmarks.report import print_report
from tests.support.live_server import TEST_SETTINGS
from tests.support.tiny_model import CONTEXT, build_tiny_model
from trainer.dataset.snapshot import take_snapshot
from trainer.runs.attempt import attempt_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=10)
    parser.add_argument("--votes", type=int, default=100_000, help="in the store after the last cycle")
    parser.add_argument("--budget", type=int, default=128, help="rows of a run, those held out included")
    parser.add_argument("--model", help="a folder or hub id; default: a tiny one")
    parser.add_argument("--database-url", default="", help="an empty PostgreSQL database; default SQLite")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="thumbloop-bench-") as folder:
        model = given.model or str(build_tiny_model(Path(folder) / "tiny"))
        values = {
            **TEST_SETTINGS,
            "data_dir": Path(folder) / "data",
            "database_url": given.database_url,
            "model": model,
            "max_length": CONTEXT,
            "lease_seconds": 60,
            "data_policy": "balanced",
            "row_budget": given.budget,
        }
        settings = Settings(**values)
        database = open_database(settings)
        with database.write() as session:
            version = model_versions.ensure_base(session, model).id
        add_people(database)
        chats = rated_chats(version, given.votes)
        cycles = []
        for cycle in range(given.cycles):
            began = time.monotonic()
            add_chats(database, chats, given.votes // given.cycles // REPLIES)
            inserted = time.monotonic() - began
            cycles.append(
                {
                    "votes": (cycle + 1) * (given.votes // given.cycles),
                    "insert_s": round(inserted, 2),
                    "new_rows": _run(database, settings),
                    "warm": _run(database, settings),
                }
            )
        alone = {
            "all": reading(database, Settings(**(values | {"data_policy": "all", "row_budget": 0}))),
            "balanced": reading(database, settings),
        }
        database.close()
    print_report("training_cycles", {"budget": given.budget, "cycles": cycles, "reading_alone_s": alone})


def _run(database: Database, settings: Settings) -> dict[str, Any]:
    """Seconds of one run by phase."""
    with database.write() as session:
        run_id = training_runs.request_run(session, trigger="cli").id
    began = time.monotonic()
    attempt_run(database, settings, run_id, owner="benchmark")
    seconds = time.monotonic() - began
    with database.read() as session:
        run = training_runs.get_run(session, run_id)
    assert run.state == "succeeded", run.reason
    training = run.metrics["training"]
    return {
        "seconds": round(seconds, 2),
        **{name: round(value, 3) for name, value in run.metrics["seconds"].items()},
        "rows": training["rows"],
        "references_reused": training["references_reused"],
        "left_out": run.metrics["left_out"],
    }


def reading(database: Database, settings: Settings) -> float:
    """Seconds for the votes of a run with these settings."""
    with database.read() as session:
        began = time.monotonic()
        take_snapshot(session, settings, moment=datetime.now(UTC))
        return round(time.monotonic() - began, 3)


if __name__ == "__main__":
    main()
