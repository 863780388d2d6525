"""Many clients that vote over HTTP from one light process: keep-alive, one request at a time each.

Written on asyncio's own streams: with 64 clients an HTTP library would cost more than the server.
Knows of a vote only its address, its token and its body.
"""

import asyncio
import gc
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import uvloop

LABELS = (b'{"label": true}', b'{"label": false}')


@dataclass(frozen=True)
class Voter:
    """One person: a token, and the replies that they may vote on."""

    token: str
    replies: Sequence[str]


@dataclass(frozen=True)
class Answer:
    status: int
    head: bytes
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One connection that is kept; raises OSError or EOFError (IncompleteReadError) when it breaks.

    Reads answers of a known length and, line by line, streams. Keeps the newest answer's `head`.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    async def __aenter__(self) -> "Connection":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def vote(self, voter: Voter, message_id: str, label: bool) -> Answer:
        return await self.ask("PUT", f"/api/v1/messages/{message_id}/vote", voter.token, LABELS[not label])

    async def ask(self, method: str, path: str, token: str, body: bytes) -> Answer:
        head = await self._begin(method, path, token, body)
        start = head.index(b"content-length:") + len(b"content-length:")
        length = int(head[start : head.index(b"\r\n", start)])
        return Answer(int(head[9:12]), head, await self._reader.readexactly(length))

    async def lines(self, path: str, token: str, body: bytes) -> AsyncIterator[bytes]:
        """The lines of a streamed answer; none if it is refused. A proxy cuts its chunks anywhere."""
        head = await self._begin("POST", path, token, body)
        rest = b""
        while int(head[9:12]) == 200 and (size := int(await self._reader.readline() or b"0", 16)):
            chunk = await self._reader.readexactly(size + len(b"\r\n"))
            *lines, rest = (rest + chunk[:size]).split(b"\n")
            for line in lines:
                yield line

    async def _begin(self, method: str, path: str, token: str, body: bytes) -> bytes:
        """The head of the answer, in small letters."""
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        self.head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        return self.head


def choices(voters: Sequence[Voter], changes: float, seed: int) -> Iterator[tuple[Voter, str, bool]]:
    """Votes without end: replies that were not voted on yet in turn, and again some that were.

    `changes` is the share of votes on replies that have one already; each of those turns its label.
    """
    draw = random.Random(seed)
    fresh = [(voter, reply) for voter in voters for reply in voter.replies]
    draw.shuffle(fresh)
    labels: dict[str, bool] = {}
    voted: list[tuple[Voter, str]] = []
    while True:
        if voted and (not fresh or draw.random() < changes):
            voter, reply = draw.choice(voted)
            labels[reply] = not labels[reply]
        else:
            voter, reply = fresh.pop()
            voted.append((voter, reply))
            labels[reply] = draw.random() < 0.7
        yield voter, reply, labels[reply]


async def load(plan: dict[str, Any], voters: Sequence[Voter]) -> dict[str, Any]:
    """Vote for a while; how many were acknowledged and how soon, and the processor time of both sides."""
    todo = choices(voters, plan["changes"], seed=0)
    server = psutil.Process(plan["server_pid"])
    latencies: list[float] = []
    refused: Counter[int] = Counter()
    begin = time.perf_counter() + plan["warm_up_s"]
    end = begin + plan["seconds"]

    async def keep_voting() -> None:
        async with Connection(plan["port"]) as connection:
            while (sent := time.perf_counter()) < end:
                answer = await connection.vote(*next(todo))
                if answer.status != 200:
                    refused[answer.status] += 1
                elif sent >= begin:
                    latencies.append(time.perf_counter() - sent)

    clients = [asyncio.create_task(keep_voting()) for _ in range(plan["clients"])]
    await asyncio.sleep(plan["warm_up_s"])
    began, mine, its = time.perf_counter(), time.process_time(), server.cpu_times()
    await asyncio.gather(*clients)
    elapsed, mine, now = time.perf_counter() - began, time.process_time() - mine, server.cpu_times()
    quantiles = statistics.quantiles(latencies, n=100)
    return {
        "votes_per_s": round(len(latencies) / elapsed),
        "p50_ms": round(quantiles[49] * 1000, 1),
        "p99_ms": round(quantiles[98] * 1000, 1),
        "largest_ms": round(max(latencies) * 1000, 1),
        "votes": len(latencies),
        "refused": dict(refused),
        "client_cores": round(mine / elapsed, 2),
        "server_cores": round((now.user + now.system - its.user - its.system) / elapsed, 2),
    }


def main() -> None:
    """Read a plan from standard input, carry it out and print what was seen."""
    plan = json.load(sys.stdin)
    voters = [Voter(**voter) for voter in plan["voters"]]
    gc.disable()  # nothing here makes cycles worth a pause
    json.dump(uvloop.run(load(plan, voters)), sys.stdout)


if __name__ == "__main__":
    main()
