"""People who chat and vote, and an admin who trains, whatever fails; each knows what was acknowledged."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.http_loop import checked
from tests.support.live_server import LiveServer, read_events, wait_until

MESSAGES_A_CHAT = 6
PAUSE_SECONDS = 0.05  # between two requests of one person
RETRY_SECONDS = 0.5
# What a request may be answered while something fails: the state forbids it, no room, and "try again".
REFUSALS = {409, 503, 507}
ENDED = ("complete", "stopped", "failed")


class Refused(Exception):
    """The request was not acknowledged: what it asks for may be stored or not."""


class Tally:
    """Counts of what all of them did, and a way to wait for more."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self._lock = threading.Lock()

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def refuse(self, what: str, response: httpx.Response | None) -> None:
        with self._lock:
            if response is None:
                self.refused["no answer"] += 1
                return
            code = response.json()["error"]["code"] if response.content else "?"
            self.refused[f"{response.status_code} {code}"] += 1
            if response.status_code not in REFUSALS:
                self.unexpected.append(f"{what}: {response.status_code} {response.text[:500]}")

    def wait_for(self, seconds: float, explain: Callable[[], str], **more: int) -> None:
        """Until so many more of each were counted."""
        wanted = {name: self.counts[name] + number for name, number in more.items()}
        wait_until(
            lambda: all(self.counts[name] >= number for name, number in wanted.items()), seconds, explain
        )

    def wait_for_refusal(self, seconds: float) -> bool:
        """Whether one more request was answered with 503 or 507 in that time."""

        def count() -> int:
            with self._lock:
                return sum(n for name, n in self.refused.items() if name.startswith(("503", "507")))

        before, deadline = count(), time.monotonic() + seconds
        while count() == before and time.monotonic() < deadline:
            time.sleep(0.05)
        return count() > before


@dataclass
class Said:
    """A message of a person: its text, its id and that of its reply, and what they read of the reply."""

    text: str
    message_id: str
    reply_id: str
    read: str = ""
    done: bool = False


@dataclass
class Person:
    """One account with its chats. `labels` has, for each reply that was voted on, what its vote may be."""

    server: LiveServer
    tally: Tally
    name: str
    draw: random.Random
    role: str = "user"
    chats: dict[str, list[Said]] = field(default_factory=dict)
    unanswered: dict[str, set[str]] = field(default_factory=dict)
    labels: dict[str, set[bool | None]] = field(default_factory=dict)

    def live(self, over: threading.Event) -> None:
        """Chat and vote until the end."""
        while not over.is_set():
            with self.server.client(self.role, self.name) as http:
                while not over.wait(PAUSE_SECONDS):
                    try:
                        self.act(http)
                    except Refused:
                        break
            over.wait(RETRY_SECONDS)

    def act(self, http: httpx.Client) -> None:
        replies = [said.reply_id for chat in self.chats.values() for said in chat]
        if replies and self.draw.random() < 0.7:
            self.vote(http, self.draw.choice(replies))
            return
        chat_id = next(reversed(self.chats), "")
        if not chat_id or len(self.chats[chat_id]) >= MESSAGES_A_CHAT:
            chat_id = self.ask("new chat", http.post, "/api/v1/chats", json={})["id"]
            self.chats[chat_id], self.unanswered[chat_id] = [], set()
        self.say(http, chat_id)

    def vote(self, http: httpx.Client, reply_id: str) -> None:
        label = self.draw.choice((True, True, False, False, None))
        path = f"/api/v1/messages/{reply_id}/vote"
        before = self.labels.setdefault(reply_id, {None})
        self.labels[reply_id] = before | {label}
        if label is None:
            self.ask("vote", http.delete, path)
        else:
            assert self.ask("vote", http.put, path, json={"label": label})["label"] == label
        self.labels[reply_id] = {label}
        self.tally.count("votes")

    def say(self, http: httpx.Client, chat_id: str) -> None:
        number = sum(map(len, self.chats.values())) + sum(map(len, self.unanswered.values()))
        text = f"{self.name} says {number}"
        self.unanswered[chat_id].add(text)
        said: Said | None = None
        try:
            with http.stream("POST", f"/api/v1/chats/{chat_id}/messages", json={"content": text}) as response:
                if response.status_code != 200:
                    response.read()
                    self.tally.refuse("message", response)
                    raise Refused
                for event, data in read_events(response):
                    if event == "message":
                        said = Said(text, data["user_message_id"], data["message_id"])
                        self.chats[chat_id].append(said)
                        self.unanswered[chat_id].remove(text)
                        self.tally.count("messages")
                    elif said is not None and event == "delta":
                        said.read += data["text"]
                    elif said is not None and event == "done":
                        assert data["content"] == said.read
                        said.done = True
                        self.tally.count("replies")
                    elif event == "error":
                        self.tally.count("replies ended by an error")
        except httpx.TransportError as error:
            self.tally.refuse("message", None)
            raise Refused from error
        if said is not None and not said.done:
            self.tally.count("replies cut off")

    def ask(self, what: str, send: Callable[..., httpx.Response], path: str, **options: Any) -> Any:
        """The acknowledgement, as JSON."""
        try:
            response = send(path, **options)
        except httpx.TransportError as error:
            self.tally.refuse(what, None)
            raise Refused from error
        if response.is_success:
            return response.json() if response.content else None
        self.tally.refuse(what, response)
        raise Refused

    def check(self, http: httpx.Client) -> None:
        """Every acknowledged chat, message, reply and vote is there, in order, and nothing else."""
        for chat_id, chat in self.chats.items():
            messages = checked(http.get(f"/api/v1/chats/{chat_id}"))["messages"]
            assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
            ids = [message["id"] for message in messages]
            assert ids == sorted(ids), chat_id
            stored = {message["id"]: message for message in messages}
            asked = [message for message in messages if message["role"] == "user"]
            extra = [
                each["content"] for each in asked if each["id"] not in {said.message_id for said in chat}
            ]
            assert len(extra) == len(set(extra))
            assert set(extra) <= self.unanswered[chat_id], f"{chat_id}: {extra}"
            kept = [each["content"] for each in asked if each["content"] not in extra]
            assert kept == [said.text for said in chat], chat_id
            for said in chat:
                reply = stored[said.reply_id]
                assert reply["parent_id"] == said.message_id
                assert reply["state"] in ENDED, reply
                assert not said.done or reply["content"] == said.read, reply
            for message in messages:
                label = message["vote"]["label"] if message["vote"] else None
                may_be = self.labels.get(message["id"], {None})
                assert label in may_be, f"{message['id']}: the vote is {label}, acknowledged {may_be}"


@dataclass
class Admin(Person):
    """Asks for trainings; knows which runs were acknowledged and which versions were shown."""

    role: str = "admin"
    runs: list[str] = field(default_factory=list)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)

    def act(self, http: httpx.Client) -> None:
        for version in self.ask("versions", http.get, "/api/v1/model-versions?limit=100")["items"]:
            if version["name"] not in self.versions:
                self.tally.count("versions")
            self.versions[version["name"]] = version
        found = self.ask("runs", http.get, "/api/v1/training-runs?limit=1")["items"]
        if not found or found[0]["state"] not in ("requested", "running"):
            run = self.ask("run", http.post, "/api/v1/training-runs", json={"force": True})
            self.runs.append(run["id"])
            self.tally.count("runs")

    def check(self, http: httpx.Client) -> None:
        for run_id in self.runs:
            run = checked(http.get(f"/api/v1/training-runs/{run_id}"))
            assert run["state"] in ("succeeded", "skipped", "failed", "cancelled"), run
            self.tally.count(f"runs {run['state']}")
        for name, seen in self.versions.items():
            version = checked(http.get(f"/api/v1/model-versions/{name}"))
            for column in ("id", "run_id", "parent_id", "sha256"):
                assert version[column] == seen[column], version


class Crowd:
    """A context manager: all of them are at work from `__enter__` to `__exit__`."""

    def __init__(self, server: LiveServer, number: int, seed: int) -> None:
        self.tally = Tally()
        self.admin = Admin(server, self.tally, "admin", random.Random(f"{seed} admin"))
        names = [f"person-{index}" for index in range(number)]
        self.people = [Person(server, self.tally, name, random.Random(f"{seed} {name}")) for name in names]
        for person in self.everybody:
            server.token(person.role, person.name)  # while the database answers
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(number + 1)
        self._lives: list[Future[None]] = []

    @property
    def everybody(self) -> list[Person]:
        return [*self.people, self.admin]

    def __enter__(self) -> "Crowd":
        self._lives = [self._pool.submit(one.live, self._over) for one in self.everybody]
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        for life in self._lives:
            life.result()

    def complain(self) -> None:
        """Raise what ended one of them, if anything did."""
        for life in self._lives:
            if life.done():
                life.result()
