"""Acknowledged votes per second over HTTP on SQLite, from 64 clients that share the server's cores.

The clients are a process of their own. Next to the product's figure stands that of the plain way, from the
same run and the same clients: a session for each request in a thread of its own, with the same tables,
checks, pragmas and durability as the product, and nothing else of it.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from sqlmodel import Session, create_engine, select

from storage.db.database import Database, open_database
from storage.db.ids import new_id
from storage.db.tables import ApiToken, Chat, Message, User, Vote, VoteEvent, now
from storage.people.tokens import create_token
from storage.registry import model_versions
from storage.settings import Settings
from tests.benchmarks.report import print_report, server_with
from tests.support.live_server import answers, wait_until
from tests.support.vote_load import Voter

PEOPLE, REPLIES = 200, 200
WARM_UP_S = 2.0
CHANGES = 0.3


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--clients", type=int, default=64)
    arguments.add_argument("--seconds", type=float, default=15)
    arguments.add_argument("--database-url", help="an empty PostgreSQL database for the product's figure")
    arguments.add_argument("--plain", nargs=2, metavar=("FILE", "PORT"), help="serve the plain way")
    given = arguments.parse_args()
    if given.plain:
        uvicorn.run(plain_app(given.plain[0]), port=int(given.plain[1]), log_level="warning")
        return
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


class NewVote(BaseModel):
    label: bool
    tags: list[str] = []
    comment: str | None = None


class VoteOut(BaseModel):
    message_id: str
    label: bool | None
    revision: int


def plain_app(file: str) -> FastAPI:
    engine = create_engine(
        f"sqlite:///{file}", connect_args={"check_same_thread": False}, pool_size=16, max_overflow=64
    )

    @sa.event.listens_for(engine, "connect")
    def pragmas(connection, _record) -> None:  # type: ignore[no-untyped-def]
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=60000", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def session() -> Iterator[Session]:
        with Session(engine) as opened:
            yield opened

    app = FastAPI()

    @app.put("/api/v1/messages/{message_id}/vote")
    def vote(
        message_id: str,
        body: NewVote,
        authorization: Annotated[str, Header()],
        session: Annotated[Session, Depends(session)],
    ) -> VoteOut:
        digest = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest()
        token = session.exec(select(ApiToken).where(ApiToken.sha256 == digest)).first()
        user = session.get(User, token.user_id) if token is not None else None
        message = session.get(Message, message_id)
        chat = session.get(Chat, message.chat_id) if message is not None else None
        if user is None or user.disabled or message is None or chat is None or chat.owner_id != user.id:
            raise HTTPException(403)
        found = session.exec(select(Vote).where(Vote.message_id == message_id, Vote.user_id == user.id))
        current = found.first()
        if current is None:
            current = Vote(message_id=message_id, user_id=user.id)
        else:
            current.revision += 1
        current.label, current.tags, current.comment = body.label, body.tags, body.comment
        current.updated_at = now()
        session.add(current)
        event = VoteEvent(
            message_id=message_id,
            user_id=user.id,
            action="cast",
            label=body.label,
            tags=body.tags,
            comment=body.comment,
            revision=current.revision,
        )
        session.add(event)
        answer = VoteOut(message_id=message_id, label=body.label, revision=current.revision)
        session.commit()
        return answer

    return app


@contextmanager
def plain_server(settings: Settings) -> Iterator[tuple[int, int]]:
    command = [sys.executable, "-m", "tests.benchmarks.votes", "--plain"]
    process = subprocess.Popen([*command, str(settings.data_dir / "thumbloop.db"), str(settings.port)])

    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{settings.port}/openapi.json"))
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
