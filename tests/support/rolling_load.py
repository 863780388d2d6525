"""Clients of several servers on one database, which read replies and vote while the servers restart.

A client that gets no answer from one server asks the next. What was acknowledged is kept, so that a test can
compare it with the database.
"""

import asyncio
import contextlib
import json
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session

from storage.chats import chats, votes
from storage.db.database import Database
from storage.db.tables import Message
from storage.people import tokens, users
from storage.registry import model_versions
from tests.support.live_server import wait_until
from tests.support.rows import add_reply
from tests.support.vote_load import Connection, Voter

VOTED_REPLIES = 5  # of each voter
RETRY_SECONDS = 0.1
SILENT_SECONDS = 120  # far longer than any reply takes
QUESTION = b'{"content": "Tell me a story."}'
ENDED = ("complete", "stopped", "failed")


@dataclass
class Read:
    """A reply that a server began: what the client read of it."""

    message_id: str
    text: str = ""
    end: dict[str, Any] | None = None  # the event done or error; None if the connection broke


@dataclass(frozen=True)
class RollingVoter(Voter):
    user_id: str
    labels: dict[str, bool] = field(default_factory=dict)  # as acknowledged last
    revisions: dict[str, int] = field(default_factory=dict)  # likewise


class RollingLoad:
    """A context manager: the clients are at work from `__enter__` to `__exit__`, in a thread."""

    def __init__(
        self, database: Database, ports: Sequence[int], *, streams: int, voters: int, votes_per_second: float
    ) -> None:
        self.database = database
        self.reads: list[Read] = []
        self.acknowledged = 0
        self.refused: list[bytes] = []  # the heads of answers that were neither 200 nor 201
        self.dropped = 0  # connections that broke
        self._ports = ports
        self._pause = voters / votes_per_second
        self._over = threading.Event()
        with database.write() as session:
            self.voters = [self._voter(session) for _ in range(voters)]
            self._tokens = [self._token(session)[0] for _ in range(streams)]
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> "RollingLoad":
        self._running = self._pool.submit(lambda: asyncio.run(self._work()))
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        self._running.result()

    @property
    def ended(self) -> int:
        """How many replies their clients have read to an end."""
        return sum(read.end is not None for read in self.reads)

    def wait_for(self, *, votes: int, replies: int) -> None:
        """Until so many more votes were acknowledged and replies read to their end."""
        voted, read = self.acknowledged + votes, self.ended + replies
        wait_until(lambda: self.acknowledged >= voted and self.ended >= read, 180)

    def check(self) -> dict[str, int]:
        """Assert that no reply is lost or silent and that the votes are exact; returns what was counted."""
        ends = {"done": 0, "error": 0, "broken": 0}
        with self.database.read() as session:
            for read in self.reads:
                stored = chats.get_message(session, read.message_id)
                assert stored.state in ENDED, stored
                if read.end is None:
                    ends["broken"] += 1
                    assert stored.content.startswith(read.text) or read.text.startswith(stored.content)
                elif "error" in read.end:
                    ends["error"] += 1
                else:
                    ends["done"] += 1
                    assert read.text == read.end["content"] == stored.content
            for voter in self.voters:
                found = votes.votes_of(session, voter.user_id, voter.replies)
                assert {id: vote.label for id, vote in found.items()} == voter.labels
                assert {id: vote.revision for id, vote in found.items()} == voter.revisions
        return {"votes": self.acknowledged, "replies": len(self.reads), **ends}

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Go on after a connection that broke, or that nobody accepted."""
        try:
            yield
        except (OSError, EOFError):  # TimeoutError is an OSError
            self.dropped += 1

    def streaming(self) -> list[Message]:
        """The replies that no server has ended yet."""
        with self.database.read() as session:
            found = [chats.get_message(session, read.message_id) for read in self.reads]
        return [message for message in found if message.state == "streaming"]

    def _token(self, session: Session) -> tuple[str, str]:
        person = users.create_anonymous(session)
        return tokens.create_token(session, person.id, name="load")[1], person.id

    def _voter(self, session: Session) -> RollingVoter:
        token, user_id = self._token(session)
        chat = chats.create_chat(session, user_id)
        version_id = model_versions.deployed_version(session).id
        replies = [add_reply(session, chat, version_id=version_id).id for _ in range(VOTED_REPLIES)]
        return RollingVoter(token, replies, user_id)

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as clients:
            for voter in self.voters:
                clients.create_task(self._vote(voter))
            for token in self._tokens:
                clients.create_task(self._chat(token))

    async def _vote(self, voter: RollingVoter) -> None:
        """Turn labels; each vote is repeated until it is acknowledged, as it may have been stored before."""
        draw, pending, clock = random.Random(voter.token), "", asyncio.get_running_loop().time
        due = clock() + draw.random() * self._pause
        while pending or not self._over.is_set():
            with self._counted():
                async with Connection(draw.choice(self._ports)) as connection:
                    while pending or not self._over.is_set():
                        pending = pending or draw.choice(voter.replies)
                        label = not voter.labels.get(pending, False)
                        answer = await connection.vote(voter, pending, label)
                        if answer.status != 200:
                            assert answer.status >= 500, answer
                            self.refused.append(answer.head)
                            break
                        self.acknowledged += 1
                        voter.labels[pending] = label
                        voter.revisions[pending] = voter.revisions.get(pending, 0) + 1
                        pending = ""
                        # By the clock, so that the rate holds however long a vote takes.
                        due += self._pause
                        await asyncio.sleep(due - clock())
            await asyncio.sleep(RETRY_SECONDS)

    async def _chat(self, token: str) -> None:
        draw = random.Random(token)
        while not self._over.is_set():
            silent = None
            with self._counted():
                async with Connection(draw.choice(self._ports)) as connection:
                    created = await connection.ask("POST", "/api/v1/chats", token, b"{}")
                    if created.status == 201:
                        async with asyncio.timeout(SILENT_SECONDS) as silent:
                            await self._read(connection, token, created.json()["id"])
                    if not connection.head.startswith(b"http/1.1 20"):
                        self.refused.append(connection.head)
            assert silent is None or not silent.expired(), "a reply neither went on nor ended"
            await asyncio.sleep(RETRY_SECONDS)

    async def _read(self, connection: Connection, token: str, chat_id: str) -> None:
        read: Read | None = None
        event = b""
        async for line in connection.lines(f"/api/v1/chats/{chat_id}/messages", token, QUESTION):
            if line.startswith(b"event: "):
                event = line.removeprefix(b"event: ").strip()
            elif line.startswith(b"data: "):
                data = json.loads(line.removeprefix(b"data: "))
                if event == b"message":
                    read = Read(data["message_id"])
                    self.reads.append(read)
                elif read is not None and event == b"delta":
                    read.text += data["text"]
                elif read is not None:
                    read.end = data
                    return
