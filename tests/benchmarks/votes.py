"""Acknowledged votes per second over HTTP on SQLite, from 64 clients that share the server's cores.

The clients are a process of their own. Beside the product's figure stands that of the plain way, a
session for each request (plain_votes.py), from the same run and the same clients.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from storage.db.database import Database, open_database
from storage.db.ids import new_id
from storage.db.tables import Chat, Message, User
from storage.people.tokens import create_token
from storage.registry import model_versions
from storage.settings import Settings
from tests.benchmarks.report import print_report, server_with
from tests.support.live_server import wait_until
from tests.support.vote_load import Voter

PEOPLE, REPLIES = 200, 200
WARM_UP_S = 2.0
CHANGES = 0.3


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--clients", type=int, default=64)
    arguments.add_argument("--seconds", type=float, default=15)
    arguments.add_argument("--database-url", help="an empty PostgreSQL database for the product's figure")
    given = arguments.parse_args()
    figures: dict[str, Any] = {"clients": given.clients, "people": PEOPLE, "replies": PEOPLE * REPLIES}
    address = {"database_url": given.database_url} if given.database_url else {}
    with server_with(**address) as server:
        voters = seed(server.settings)
        server.start()
        assert server.process is not None
        figures["product"] = measure(server.settings.port, server.process.pid, voters, given)
    with tempfile.TemporaryDirectory(prefix="thumbloop-bench-") as folder:
        settings = Settings(data_dir=Path(folder))
        voters = seed(settings)
        with plain_server(settings) as (port, pid):
            figures["plain session per request"] = measure(port, pid, voters, given)
    print_report("votes", figures)


def seed(settings: Settings) -> list[Voter]:
    """People with a token each, and finished replies in several chats of theirs."""
    database = open_database(settings)
    voters = []
    with database.write() as session:
        version = model_versions.ensure_base(session, settings.model).id
        for _ in range(PEOPLE):
            user = User()
            session.add(user)
            session.flush()
            voters.append((user.id, create_token(session, user.id, name="bench")[1]))
    everyone = [_add_replies(database, user_id, token, version) for user_id, token in voters]
    database.close()
    return everyone


def _add_replies(database: Database, user_id: str, token: str, version: str) -> Voter:
    chats: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    replies: list[str] = []
    for number in range(REPLIES):
        if number % 10 == 0:
            chats.append({"id": new_id(), "owner_id": user_id, "source": "api"})
        above = {"chat_id": chats[-1]["id"], "content": "Why is the sky blue?" * 4}
        question = above | {"id": new_id(), "role": "user", "parent_id": None, "model_version_id": None}
        replies.append(new_id())
        answer = {"id": replies[-1], "role": "assistant", "parent_id": question["id"]}
        messages += [question, above | answer | {"model_version_id": version}]
    with database.engine.begin() as connection:
        connection.execute(sa.insert(Chat), chats)
        connection.execute(sa.insert(Message), messages)
    return Voter(token, replies)


@contextmanager
def plain_server(settings: Settings) -> Iterator[tuple[int, int]]:
    command = [sys.executable, "-m", "tests.benchmarks.plain_votes", str(settings.data_dir / "thumbloop.db")]
    process = subprocess.Popen([*command, str(settings.port)])

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{settings.port}/openapi.json").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers)
        yield settings.port, process.pid
    finally:
        process.kill()
        process.wait()


def measure(port: int, pid: int, voters: Sequence[Voter], given: argparse.Namespace) -> dict[str, Any]:
    """Let a process of clients vote; what they saw, and the processor time that both sides took."""
    plan = {
        "port": port,
        "server_pid": pid,
        "clients": given.clients,
        "seconds": given.seconds,
        "warm_up_s": WARM_UP_S,
        "changes": CHANGES,
        "voters": [asdict(voter) for voter in voters],
    }
    command = [sys.executable, "-m", "tests.support.vote_load"]
    done = subprocess.run(command, input=json.dumps(plan), stdout=subprocess.PIPE, text=True, check=True)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


if __name__ == "__main__":
    main()
