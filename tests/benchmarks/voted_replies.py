"""The admin's pages on a large store: milliseconds of the list of votes and of the overview's figures."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from storage.chats import stats, votes
from storage.chats.signals import count_signals
from storage.db.database import Database
from storage.review.voted_replies import VoteFilter, list_votes
from tests.benchmarks.export import build
from tests.benchmarks.report import empty_store, print_report, store_parser

SEARCHES: dict[str, dict[str, Any]] = {
    "newest": {},
    "down": {"label": False},
    "counts": {"use": "counts"},
    "a frequent word": {"search": "river"},
    "a text that is nowhere": {"search": "no such words"},
    "a use that no vote has": {"use": "excluded"},
    "a tag that no vote has": {"tag": "wrong"},
    "one person": {"user": f"{7:08x}-0000-7000-8000-000000000000"},
    "a version": {"model_version": "v1"},
}
OVERVIEW: dict[str, Callable[[Session], object]] = {
    "approval per version": stats.version_stats,
    "votes a day": stats.daily_votes,
    "reason tags": stats.tag_counts,
    "signals": count_signals,
    "votes by source": votes.count_by_source,
    "voters": votes.count_voters,
}
TIMES, SHOWN = 10, 30


def main() -> None:
    arguments = store_parser(__doc__)
    arguments.add_argument("--votes", type=int, default=1_000_000)
    given = arguments.parse_args()
    with empty_store(given.database_url) as (address, _):
        build(address, given.votes)
        database = Database(address)
        with database.engine.begin() as connection:
            connection.execute(sa.text(VOTES))
            connection.execute(sa.text("ANALYZE"))
        figures = {
            name: measured(database, partial(list_votes, filter=VoteFilter(**search), limit=SHOWN))
            for name, search in SEARCHES.items()
        }
        figures |= {name: measured(database, query) for name, query in OVERVIEW.items()}
        database.close()
    print_report("voted_replies", {"votes": given.votes, "engine": database.dialect, "ms": figures})


# The current vote of each reply and person, from its newest event.
VOTES = """
INSERT INTO vote (id, message_id, user_id, label, tags, quarantined, excluded, revision,
    created_at, updated_at)
SELECT message_id, message_id, user_id, label, tags, quarantined, quarantined, revision,
    created_at, created_at
FROM vote_event WHERE revision = 2
"""


def measured(database: Database, query: Callable[[Session], object]) -> dict[str, float]:
    """Milliseconds, the median and the worst of ten times."""
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        with database.read() as session:
            query(session)
        took.append(1000 * (time.perf_counter() - began))
    return {"median": round(statistics.median(took), 1), "worst": round(max(took), 1)}


if __name__ == "__main__":
    main()
