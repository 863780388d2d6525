"""kill -9 while many clients vote: what was acknowledged is there, once, and the log has no gap.

The same where more votes come than can be stored: those are refused.

THUMBLOOP_TEST_KILL_ROUNDS says how often on each engine; `make kill-rounds` asks for 200.
"""

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import pytest
from sqlmodel import col, select

from storage.chats import chats
from storage.chats.votes import lock_vote_log
from storage.db.database import open_database
from storage.db.tables import Vote, VoteEvent
from storage.people import users
from storage.people.tokens import create_token
from storage.registry import model_versions
from tests.support import http_loop
from tests.support.live_server import LiveServer, StartServer
from tests.support.rows import add_reply
from tests.support.threads import in_a_loop
from tests.support.vote_load import Answer, Connection, Voter

CLIENTS, REPLIES_EACH = 32, 3
NO_VOTE = (None, 0)
GIVEN_ROUNDS = os.environ.get("THUMBLOOP_TEST_KILL_ROUNDS")
ROUNDS = {"sqlite": int(GIVEN_ROUNDS or 6), "postgresql": int(GIVEN_ROUNDS or 3)}


@dataclass
class Client:
    """One person at one connection, what they were told, and the vote that was not answered."""

    voter: Voter
    acknowledged: dict[str, tuple[bool | None, int]] = field(default_factory=dict)
    unanswered: tuple[str, bool] | None = None

    async def keep_voting(self, port: int, tell: Callable[[], None]) -> None:
        """Change votes until the server dies; each answer must be the revision that follows."""
        try:
            async with Connection(port) as connection:
                while True:
                    for message_id in self.voter.replies:
                        before, revision = self.acknowledged.get(message_id, NO_VOTE)
                        self.unanswered = (message_id, not before)
                        answer = await connection.vote(self.voter, message_id, not before)
                        assert answer.status == 200, answer.body
                        assert answer.json()["revision"] == revision + 1
                        self.acknowledged[message_id] = (not before, revision + 1)
                        self.unanswered = None
                        tell()
        except (OSError, EOFError):
            return

    def check(self, http: httpx.Client) -> None:
        """Ask for every vote; the unanswered one may have been stored, and then is known from now on."""
        headers = {"Authorization": f"Bearer {self.voter.token}"}
        for message_id in self.voter.replies:
            label, revision = self.acknowledged.get(message_id, NO_VOTE)
            vote = http_loop.checked(http.get(f"/api/v1/messages/{message_id}/vote", headers=headers))
            found = (vote["label"], vote["revision"])
            if self.unanswered == (message_id, not label) and found == (not label, revision + 1):
                self.acknowledged[message_id] = found
            else:
                assert found == (label, revision), f"{message_id}: acknowledged {(label, revision)}"
        self.unanswered = None


async def kill_in_mid_load(server: LiveServer, clients: list[Client], votes: int) -> None:
    """Let everybody vote, kill the server after so many answers, and wait until all have noticed."""
    enough = asyncio.Event()
    answers = 0

    def tell() -> None:
        nonlocal answers
        answers += 1
        if answers == votes:
            enough.set()

    voting = [asyncio.create_task(client.keep_voting(server.settings.port, tell)) for client in clients]
    waiting = asyncio.create_task(enough.wait())
    # A client that ends before the server does has failed.
    done, _ = await asyncio.wait([*voting, waiting], return_when=asyncio.FIRST_COMPLETED, timeout=120)
    server.kill()
    waiting.cancel()
    await asyncio.gather(*voting)
    assert waiting in done, server.log.read_text()[-4000:]


@pytest.mark.both_engines
@pytest.mark.timeout(300 + 60 * max(ROUNDS.values()))
def test_no_acknowledged_vote_is_lost_and_none_is_doubled(
    start_server: StartServer, database_url: str
) -> None:
    server = start_server(database_url=database_url)
    clients = add_clients(server)
    rounds = ROUNDS["sqlite" if database_url.startswith("sqlite") else "postgresql"]
    draw = random.Random(rounds)
    for _ in range(rounds):
        in_a_loop(kill_in_mid_load(server, clients, draw.randint(CLIENTS, 400)))
        server.start()
        with server.visit() as http:
            for client in clients:
                client.check(http)
    assert_store_is_what_was_acknowledged(server, clients)


def add_clients(server: LiveServer) -> list[Client]:
    database = open_database(server.settings)
    clients = []
    with database.write() as session:
        version = model_versions.deployed_version(session)
        for _ in range(CLIENTS):
            user = users.create_anonymous(session)
            token = create_token(session, user.id, name="test")[1]
            chat = chats.create_chat(session, user.id)
            replies = [add_reply(session, chat, version_id=version.id).id for _ in range(REPLIES_EACH)]
            clients.append(Client(Voter(token, replies)))
    database.close()
    return clients


def assert_store_is_what_was_acknowledged(server: LiveServer, clients: list[Client]) -> None:
    database = open_database(server.settings)
    with database.read() as session:
        stored = {vote.message_id: (vote.label, vote.revision) for vote in session.exec(select(Vote))}
        logged: dict[str, list[tuple[bool | None, int]]] = {}
        for event in session.exec(select(VoteEvent).order_by(col(VoteEvent.id))):
            logged.setdefault(event.message_id, []).append((event.label, event.revision))
    database.close()
    acknowledged = {reply: vote for client in clients for reply, vote in client.acknowledged.items()}
    assert stored == acknowledged
    assert {reply: events[-1] for reply, events in logged.items()} == acknowledged
    for reply, events in logged.items():
        # Each vote turned the label, so none was lost or doubled in between either.
        assert events == [(number % 2 == 1, number) for number in range(1, acknowledged[reply][1] + 1)]


@pytest.mark.both_engines
def test_votes_that_would_wait_too_long_are_refused_and_not_stored(
    start_server: StartServer, database_url: str
) -> None:
    server = start_server(database_url=database_url, max_waiting_writes=2)
    clients = add_clients(server)
    database = open_database(server.settings)

    async def vote_at_once() -> list[Answer]:
        refused = asyncio.Event()

        async def vote(client: Client) -> Answer:
            async with Connection(server.settings.port) as connection:
                answer = await connection.vote(client.voter, client.voter.replies[0], True)
            if answer.status == 503:
                refused.set()
            return answer

        with database.write() as session:
            lock_vote_log(session)  # now no vote can be stored
            voting = [asyncio.create_task(vote(client)) for client in clients]
            await asyncio.wait_for(refused.wait(), 60)
        return await asyncio.gather(*voting)

    answers = in_a_loop(vote_at_once())
    database.close()
    assert {answer.status for answer in answers} == {200, 503}
    for client, answer in zip(clients, answers, strict=True):
        if answer.status == 200:
            client.acknowledged[client.voter.replies[0]] = (True, 1)
        else:
            assert answer.json()["error"]["code"] == "busy"
            assert b"\r\nretry-after: 1\r\n" in answer.head
    assert_store_is_what_was_acknowledged(server, clients)
