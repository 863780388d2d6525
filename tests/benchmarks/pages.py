"""Pages of a large store over HTTP: every page of the admin's, the list of chats, a long chat, and searches.

The store has a million votes, which 1,000 people cast within a year, and an admin with 10,000 chats and one
of 2,000 messages. Some texts are Chinese. CPU time is of the server and, with PostgreSQL, of its backends.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import sqlalchemy as sa
from sqlmodel import Session, col, select

from app.pages.admin.frame import PAGES
from storage.db.database import Database, open_database
from storage.db.tables import Chat, Message, User, Vote, VoteEvent
from storage.people.tokens import create_token
from storage.people.users import ensure_user
from storage.registry import model_versions
from tests.benchmarks.report import empty_store, print_report, server_with, store_parser
from tests.benchmarks.search import CHINESE, NOWHERE, draw_words
from tests.support.chat_tab import ChatTab
from tests.support.tiny_model import build_tiny_model
from trainer.taste.review_queue import QUEUES

PEOPLE, TEXTS, DAYS = 1000, 20_000, 365
REPLIES = 4  # of a chat: two turns, each regenerated once
LONG = 2000  # messages
BATCH = 2000  # chats
COMMENT = "Too long, and wrong."
KINDS: tuple[type[Any], ...] = (User, Chat, Message, Vote, VoteEvent)

Row = tuple[type[Any], dict[str, Any]]
Ask = Callable[[], Awaitable[object]]


def main() -> None:
    arguments = store_parser(__doc__)
    arguments.add_argument("--votes", type=int, default=1_000_000)
    arguments.add_argument("--chats", type=int, default=10_000, help="of the admin")
    arguments.add_argument("--times", type=int, default=40, help="that each page is asked for")
    arguments.add_argument("--data-dir", type=Path, help="of an earlier run, whose store is used, or to keep")
    arguments.add_argument("--only", default="", help="the pages whose names have this text")
    given = arguments.parse_args()
    with empty_store(given.database_url) as (_, folder):
        data_dir = given.data_dir or Path(folder) / "data"
        settings = {
            "model": build_tiny_model(data_dir.with_suffix(".model")),
            "data_dir": data_dir,
            "database_url": given.database_url or "",
        }
        print_report("pages", measure(settings, given.votes, given.chats, given.times, given.only))


def measure(settings: dict[str, Any], votes: int, chats: int, times: int, only: str) -> dict[str, Any]:
    """Fill the store of a server with these settings, and ask it for the pages whose names have `only`."""
    with server_with(schedule="", **settings) as server:
        with closing(open_database(server.settings)) as database:
            began = time.monotonic()
            with database.write() as session:
                admin = ensure_user(session, "admin", "admin").id
                cookie = create_token(session, admin, name="bench", kind="session")[1]
            fill(database, admin, str(settings["model"]), votes, chats)
            built = round(time.monotonic() - began)
            with database.read() as session:
                asked = addresses(session, admin)
        server.start(wait=False)
        server.wait_ready(300)
        assert server.process is not None
        cookies = {"thumbloop_session": cookie}
        bench = Bench(server.url, cookies, server.process.pid, database, times)
        figures = asyncio.run(bench.run({name: one for name, one in asked.items() if only in name}))
    return {
        "engine": database.dialect,
        "votes": votes,
        "chats": chats,
        "build_s": built,
        "pages": figures,
    }


def addresses(session: Session, admin: str) -> dict[str, str]:
    """The addresses that are asked for, by what they are. Those of the chat page begin with /?"""
    words, _ = draw_words(random.Random(0))
    searches = {
        "a frequent word": words[0],
        "a rare word": words[-1],
        "a text that is nowhere": NOWHERE,
        "two Chinese characters": "北京",
        "two Chinese characters that are nowhere": "鲸鱼",
    }
    newest = session.exec(select(Vote).order_by(col(Vote.id).desc()).limit(1)).one()
    long = session.exec(select(Chat.id).where(Chat.owner_id == admin, Chat.title == "Long")).one()
    filters = {
        "thumbs down": "label=down",
        "one person": f"user={newest.user_id}",
        "a version": "model_version=v1",
        "a tag": "tag=wrong",
        "a comment": "has_comment=true",
        "excluded": "use=excluded",
        "disagreed": "disagreed=true",
        "a day a year ago": f"to_date={datetime.now(UTC) - timedelta(DAYS - 1):%Y-%m-%d}",
        **{f"search: {name}": f"search={text}" for name, text in searches.items()},
    }
    feedback = "/admin/feedback"
    return {
        **{name: address for address, (name, _) in PAGES.items()},
        **{f"Feedback, {name}": f"{feedback}?{query}" for name, query in filters.items()},
        "Feedback, a conversation": f"{feedback}?vote={newest.id}",
        **{f"Feedback, queue {name}": f"{feedback}?queue={name}" for name in QUEUES},
        "Feedback, themes": f"{feedback}/themes",
        "People, preview of an erasure": f"/admin/people?erase={newest.user_id}",
        "Versions, compare": "/admin/versions/compare",
        "API, statistics": "/api/v1/stats",
        "API, votes": "/api/v1/votes",
        "API, examples": "/api/v1/examples",
        "API, count of an export": "/api/v1/export/count",
        "API, chats": "/api/v1/chats",
        **{f"API, chats, search: {name}": f"/api/v1/chats?search={text}" for name, text in searches.items()},
        "API, the long chat": f"/api/v1/chats/{long}",
        "Chat page, the newest chat and the list": "/?",
        "Chat page, the long chat and the list": f"/?chat={long}",
    }


class Bench:
    """A browser of an admin, and the processes whose CPU time is counted."""

    def __init__(self, url: str, cookies: dict[str, str], pid: int, database: Database, times: int) -> None:
        self.options: dict[str, Any] = {"base_url": url, "cookies": cookies, "timeout": 300}
        self.server, self.name, self.times = psutil.Process(pid), database.engine.url.database, times
        self.postgres = database.dialect == "postgresql"

    async def run(self, asked: dict[str, str]) -> dict[str, Any]:
        async with httpx.AsyncClient(**self.options) as client:
            (await client.get("/api/v1/me")).raise_for_status()
            figures = {}
            for name, address in asked.items():
                if address.startswith("/?"):
                    figures[name] = await self.open_chat(address.removeprefix("/?"))
                else:
                    figures[name] = await self.measure(lambda at=address: self.get(client, at))
        return figures

    async def get(self, client: httpx.AsyncClient, address: str) -> None:
        (await client.get(address)).raise_for_status()

    async def open_chat(self, query: str) -> dict[str, float]:
        """From the page's load event to its last update, as the browser asks with the page's address."""

        async def name_chat(request: httpx.Request) -> None:
            if request.url.path.endswith("/queue/join"):
                request.url = request.url.copy_with(query=query.encode())

        async with httpx.AsyncClient(**self.options, event_hooks={"request": [name_chat]}) as client:
            page = ChatTab(client, 0)
            await page.open()
            return await self.measure(lambda: page.act("load", [None, {}]))

    async def measure(self, ask: Ask) -> dict[str, float]:
        """Milliseconds of the first request and of all; CPU time of each."""
        took = []
        spent = -self.cpu_seconds()
        for _ in range(self.times):
            began = time.perf_counter()
            await ask()
            took.append(1000 * (time.perf_counter() - began))
        spent += self.cpu_seconds()
        ordered = sorted(took)
        return {
            "first_ms": round(took[0]),
            "p50_ms": round(ordered[len(took) // 2]),
            "p95_ms": round(ordered[int(len(took) * 0.95)]),
            "cpu_ms": round(1000 * spent / len(took)),
        }

    def cpu_seconds(self) -> float:
        processes = [self.server]
        if self.postgres:  # whose processes are named after their database
            named = psutil.process_iter(["name", "cmdline"])
            processes += [
                one
                for one in named
                if self.name in " ".join(one.info["cmdline"] or []) and one.info["name"] == "postgres"
            ]
        total = 0.0
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:2])
        return total


def fill(database: Database, admin: str, model: str, votes: int, chats: int) -> None:
    """Does nothing to a store that has the admin's chats already."""
    with database.write() as session:
        version = model_versions.ensure_base(session, model).id
        if session.exec(select(Chat.id).where(Chat.owner_id == admin).limit(1)).first() is not None:
            return
    made = rows(admin, version, votes, chats)
    with database.engine.begin() as connection:
        connection.execute(sa.insert(User), [row for _, row in next(made)])
    for batch in made:
        with database.engine.begin() as connection:
            for kind in KINDS:
                if found := [row for table, row in batch if table is kind]:
                    connection.execute(sa.insert(kind), found)
    with database.engine.begin() as connection:
        connection.execute(sa.text("ANALYZE"))


def draw_texts(draw: random.Random, shortest: int, longest: int) -> list[str]:
    """Of so many words. One in ten is Chinese."""
    words, weights = draw_words(draw)
    return [
        "".join(draw.choices(CHINESE, k=draw.randint(2 * shortest, 2 * longest)))
        if draw.random() < 0.1
        else " ".join(draw.choices(words, cum_weights=weights, k=draw.randint(shortest, longest)))
        for _ in range(TEXTS)
    ]


def rows(admin: str, version: str, votes: int, chats: int) -> Iterator[list[Row]]:
    """In batches: the people, then the chats of all of them, the admin's among the others."""
    draw = random.Random(0)
    texts = draw_texts(draw, 5, 30)
    beginning = datetime.now(UTC) - timedelta(DAYS)
    made = 0

    def dated(at: float) -> dict[str, Any]:
        """A new id and its time, this far through the year."""
        nonlocal made
        made += 1
        moment = beginning + at * timedelta(DAYS)
        number = int(moment.timestamp() * 1000) << 80 | 0x7 << 76 | 0b10 << 62 | made
        return {"id": str(UUID(int=number)), "created_at": moment}

    def chat(owner: str, at: float, turns: int, replies: int, title: str = "") -> list[Row]:
        chat = {**dated(at), "owner_id": owner, "title": title or draw.choice(texts)[:40]}
        found: list[Row] = [(Chat, chat)]
        parent = None
        for _ in range(turns):
            asked = message(at, chat, parent, "user")
            answers = [message(at, chat, asked["id"], "assistant") for _ in range(replies)]
            parent = answers[0]["id"]
            found += [(Message, asked), *((Message, one) for one in answers)]
            for reply in answers if replies > 1 else ():
                found += vote(at, owner, reply["id"])
        return found

    def message(at: float, chat: dict[str, Any], parent: str | None, role: str) -> dict[str, Any]:
        row = {**dated(at), "chat_id": chat["id"], "parent_id": parent, "role": role}
        replied = {"model_version_id": version if role == "assistant" else None}
        return row | replied | {"content": draw.choice(texts)}

    def vote(at: float, owner: str, reply: str) -> list[Row]:
        up, commented = draw.random() < 0.7, draw.random() < 0.05
        said = {
            "message_id": reply,
            "user_id": owner,
            "label": up,
            "tags": [] if up or draw.random() < 0.5 else ["wrong"],
            "comment": COMMENT if commented else None,
            "revision": 1,
        }
        row = dated(at)
        event = {**said, "action": "cast", "created_at": row["created_at"]}
        return [(Vote, {**row, **said, "updated_at": row["created_at"]}), (VoteEvent, event)]

    people = [dated(0)["id"] for _ in range(PEOPLE)]
    yield [(User, {"id": person}) for person in people]
    total = votes // REPLIES
    batch: list[Row] = []
    for number in range(total):
        at = number / total
        batch += chat(draw.choice(people), at, REPLIES // 2, 2)
        if number * chats // total != (number + 1) * chats // total:
            batch += chat(admin, at, 1, 1)
        if number % BATCH == BATCH - 1:
            yield batch
            batch = []
    yield [*batch, *chat(admin, 1, LONG // 2, 1, "Long")]


if __name__ == "__main__":
    main()
