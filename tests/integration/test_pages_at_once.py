"""Many chat pages at once; for longer and with more of them: `python -m tests.benchmarks.browsing`."""

import asyncio

import httpx
import psutil

from tests.support.chat_tab import ChatTab
from tests.support.live_server import StartServer
from tests.support.threads import in_a_loop

TABS, MIB = 20, 2**20


def test_tabs_hear_nothing_of_each_other_and_leave_no_memory_behind(start_server: StartServer) -> None:
    server = start_server(
        executor="local", max_concurrent_replies=TABS, max_new_tokens=16, max_replies_per_minute=0
    )
    assert server.process is not None
    process = psutil.Process(server.process.pid)

    async def chat() -> int:
        """The growth of the server's memory after the first four replies in each tab."""
        clients = [httpx.AsyncClient(base_url=server.url, timeout=120) for _ in range(TABS)]
        tabs = [ChatTab(client, number) for number, client in enumerate(clients)]
        await asyncio.gather(*(tab.open() for tab in tabs))
        before = 0
        for number in range(16):
            if number == 4:
                before = process.memory_info().rss
            await asyncio.gather(*(tab.send() for tab in tabs))
        for client in clients:
            await client.aclose()
        return process.memory_info().rss - before

    assert in_a_loop(chat()) < 64 * MIB
