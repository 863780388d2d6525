"""Ten million votes on PostgreSQL: migrations, vacuum, pages, a balanced run's reading, an export.

The votes are made in the database itself, at the schema before the index of texts, so that later migrations
are measured on a full store. Then come the people and chats of `pages`, and its pages are asked for.
"""

import argparse
import random
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.script import ScriptDirectory

from storage.db import migrations
from storage.db.database import Database
from storage.db.ids import new_id
from storage.settings import Settings
from tests.benchmarks import pages
from tests.benchmarks.bulk_votes import make_votes
from tests.benchmarks.report import in_a_process, print_report
from tests.benchmarks.training_cycles import reading
from tests.support.tiny_model import build_tiny_model

FIRST = "0014"  # the migration before the index of texts
WORDS = 3, 12  # of a text, so that ten million votes fit on a small disk
BUDGET = 1000  # rows of a balanced run
BASE = """INSERT INTO model_version (id, created_at, number, kind, base_model, files, metrics, state, reason)
    VALUES (:id, now(), 1, 'base', :model, '{}', '{}', 'ready', 'The base model.')"""
SIZE = "SELECT pg_database_size(current_database()) / 1048576"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database-url", required=True, help="of PostgreSQL; filled if it is empty")
    parser.add_argument("--data-dir", type=Path, help="to keep, so that the database can be used again")
    parser.add_argument("--votes", type=int, default=10_000_000)
    parser.add_argument("--times", type=int, default=20, help="that each page is asked for")
    parser.add_argument("--only", default="", help="the pages whose names have this text")
    parser.add_argument("--export", action="store_true", help="export all votes, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thumbloop-bench-") as name:
        data_dir = given.data_dir or Path(name) / "data"
        model = str(build_tiny_model(data_dir.with_suffix(".model")))
        figures: dict[str, Any] = {"votes": given.votes}
        with closing(Database(given.database_url)) as database:
            if not sa.inspect(database.engine).has_table("vote"):
                figures["seconds of filling and of each migration"] = fill(database, model, given.votes)
            database.migrate()
            figures["mib"] = number(database, SIZE)
            figures["vacuum_s"] = vacuum(database)
        where = {"data_dir": data_dir, "database_url": given.database_url, "model": model}
        chats = min(10_000, given.votes // pages.REPLIES)
        figures["pages"] = pages.measure(where, chats * pages.REPLIES, chats, given.times, given.only)
        with closing(Database(given.database_url)) as database:
            balanced = Settings(data_dir=data_dir, data_policy="balanced", row_budget=BUDGET)
            figures["reading of a balanced run, s"] = [reading(database, balanced) for _ in range(3)]
        if given.export:
            kind = "jsonl/kto"
            exported = in_a_process("tests.benchmarks.export", "export", kind, given.database_url, name, "1")
            figures["export"] = {kind: exported}
    print_report("large_store", figures)


def fill(database: Database, model: str, votes: int) -> dict[str, float]:
    database.migrate(FIRST)
    base = {"id": new_id(), "model": model}
    with database.engine.begin() as connection:
        connection.execute(sa.text(BASE), base)
    texts = pages.draw_texts(random.Random(0), *WORDS)
    took = {"filling": seconds(lambda: make_votes(database.engine, base["id"], texts, pages.COMMENT, votes))}
    took["vacuum"] = vacuum(database)
    later = ScriptDirectory(str(Path(migrations.__file__).parent)).iterate_revisions("head", FIRST)
    for script in reversed(list(later)):
        took[script.revision] = seconds(lambda to=script.revision: database.migrate(to))
    return took


def vacuum(database: Database) -> float:
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return seconds(lambda: connection.exec_driver_sql("VACUUM ANALYZE"))


def number(database: Database, query: str) -> int:
    with database.engine.connect() as connection:
        return int(connection.execute(sa.text(query)).scalar_one())


def seconds(act: Any) -> float:
    began = time.monotonic()
    act()
    return round(time.monotonic() - began, 1)


if __name__ == "__main__":
    main()
