"""kill -9 while people chat and vote, with the clock moved by an hour either way before each restart.

What was acknowledged is there, chats read in their order, and what was cut off can be regenerated.
THUMBLOOP_TEST_KILL_ROUNDS says how often on each engine; `make clock-rounds` asks for 20.
"""

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import http_loop
from tests.support.live_server import LiveServer, StartServer, faked_clock, wait_until

PEOPLE, LEAST = 4, 5
ROUNDS = int(os.environ.get("THUMBLOOP_TEST_KILL_ROUNDS") or 2)
HOUR = 3600


@dataclass
class Talker:
    """A person with one chat, and what the server acknowledged: the texts, and the vote on each reply."""

    name: str
    chat_id: str = ""
    texts: list[str] = field(default_factory=list)
    votes: dict[str, bool] = field(default_factory=dict)
    unanswered: str | None = None

    def keep_talking(self, server: LiveServer, acknowledged: "Countdown") -> None:
        """Send and vote until the server dies."""
        try:
            with server.client("user", self.name) as http:
                if not self.chat_id:
                    self.chat_id = http_loop.checked(http.post("/api/v1/chats", json={}))["id"]
                while True:
                    self.unanswered = f"{self.name} says {len(self.texts)}"
                    reply = http_loop.checked(
                        http.post(
                            f"/api/v1/chats/{self.chat_id}/messages?stream=false",
                            json={"content": self.unanswered},
                        )
                    )
                    self.texts.append(self.unanswered)
                    self.unanswered = None
                    label = len(self.texts) % 2 == 0
                    http_loop.checked(http.put(f"/api/v1/messages/{reply['id']}/vote", json={"label": label}))
                    self.votes[reply["id"]] = label
                    acknowledged.count()
        except httpx.TransportError:
            return

    def check(self, server: LiveServer) -> None:
        """Read the chat: each text once, in its order, each followed by its reply with the vote."""
        if not self.chat_id:
            return
        with server.client("user", self.name) as http:
            messages: list[Any] = []

            def ended() -> bool:
                """Whether no reply is under way: on PostgreSQL the lease of a dead server runs out first."""
                messages[:] = http_loop.checked(http.get(f"/api/v1/chats/{self.chat_id}"))["messages"]
                return all(message["state"] != "streaming" for message in messages)

            wait_until(ended, 60)
            assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
            sent = [message["content"] for message in messages if message["role"] == "user"]
            if sent[len(self.texts) :] == [self.unanswered]:  # stored, and killed before the answer
                assert self.unanswered is not None
                self.texts.append(self.unanswered)
            assert sent == self.texts
            self.unanswered = None
            ids = [message["id"] for message in messages]
            assert ids == sorted(ids), "a message's id is after its parent's, whatever the clock said"
            votes = {message["id"]: message["vote"] for message in messages if message["id"] in self.votes}
            assert {message_id: vote["label"] for message_id, vote in votes.items()} == self.votes
            if messages[-1]["finish_reason"] in (None, "interrupted"):
                again = http.post(f"/api/v1/messages/{messages[-1]['id']}/regenerate?stream=false")
                http_loop.checked(again)


def clock_of(server: LiveServer) -> float:
    """The server's clock in seconds since 1970, by the header of an answer."""
    with server.visit() as http:
        return parsedate_to_datetime(http.get("/healthz").headers["date"]).timestamp()


class Countdown:
    """Lets one thread wait until the others have counted so often."""

    def __init__(self, wanted: int) -> None:
        self.left, self.lock, self.reached = wanted, threading.Lock(), threading.Event()

    def count(self) -> None:
        with self.lock:
            self.left -= 1
            if self.left == 0:
                self.reached.set()


@pytest.mark.both_engines
@pytest.mark.timeout(300 + 60 * ROUNDS)
def test_nothing_is_lost_when_the_clock_moves_between_kills(
    start_server: StartServer, database_url: str, faketime: Path
) -> None:
    server = start_server(database_url=database_url, executor="local", max_replies_per_minute=0)
    people = [Talker(f"person-{number}") for number in range(PEOPLE)]
    draw = random.Random(ROUNDS)
    for round in range(ROUNDS):
        acknowledged = Countdown(draw.randint(LEAST, 4 * LEAST))
        with ThreadPoolExecutor(PEOPLE) as pool:
            talking = [pool.submit(one.keep_talking, server, acknowledged) for one in people]
            assert acknowledged.reached.wait(120), server.log.read_text()[-4000:]
            server.kill()
            for one in talking:
                one.result()
        offset = -HOUR if round % 2 == 0 else HOUR  # back first, so that two rounds show what it does
        server.more_environment = faked_clock(faketime, offset)
        server.start()
        assert clock_of(server) == pytest.approx(time.time() + offset, abs=HOUR / 4)
        for person in people:
            person.check(server)
    assert "Traceback" not in server.log.read_text()
