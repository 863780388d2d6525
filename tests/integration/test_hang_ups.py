"""Clients that hang up at random moments, over real sockets: nothing of them stays in the server."""

import asyncio
import contextlib
import json
import socket
import struct
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import httpx
import psutil

from tests.support.live_server import LiveServer, StartServer, wait_until
from tests.support.rest import new_chat, send
from tests.support.threads import in_a_loop

AT_ONCE, WAITING, CLIENTS = 8, 32, 24
POOLS = 32  # threads that a pool of the server keeps for good
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: the connection ends with RST in place of FIN


class Crowd:
    """Clients of one server, `CLIENTS` of them at once."""

    def __init__(self, server: LiveServer, chats: list[str]) -> None:
        self.port = server.settings.port
        self.token = server.token()
        self.chats = chats
        self.seen: Counter[str] = Counter()

    def all_come(self, numbers: range) -> None:
        in_a_loop(self.come(numbers))

    async def come(self, numbers: range) -> None:
        doors = asyncio.Semaphore(CLIENTS)
        await asyncio.gather(*(self.come_and_go(number, doors) for number in numbers))

    async def come_and_go(self, number: int, doors: asyncio.Semaphore) -> None:
        """Hang up in mid-request, right after it, after so many pieces of a stream, or while waiting."""
        random = Random(number)
        async with doors:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            request, moment = self.request(number), random.randrange(14)
            writer.write(request if moment else request[: random.randrange(len(request))])
            await writer.drain()
            pieces = [b""]
            with contextlib.suppress(TimeoutError):  # what comes as a whole would not come for long
                async with asyncio.timeout(random.uniform(0, 0.3) if number % 3 == 2 else 60):
                    while len(pieces) < moment and (piece := await reader.read(512)):
                        pieces.append(piece)
            self.seen[b"".join(pieces)[9:12].decode()] += 1
            if random.random() < 0.5:
                connection: socket.socket = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    def request(self, number: int) -> bytes:
        """A reply in a chat as a stream, a completion as a stream, or a completion as a whole, in turn."""
        if number % 3 == 0:
            path = f"/api/v1/chats/{self.chats[number % len(self.chats)]}/messages"
            body: dict[str, object] = {"content": f"Tell me about {number}."}
        else:
            path = "/v1/chat/completions"
            messages = [{"role": "user", "content": f"Tell me about {number}."}]
            body = {"model": "deployed", "messages": messages, "stream": number % 3 == 1}
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


def test_hundreds_of_clients_hang_up_at_random_moments(
    start_server: StartServer, talkative_model: Path
) -> None:
    server = start_server(
        model=talkative_model,
        max_new_tokens=900,  # nobody's reply ends by itself
        serving_cache_tokens=4096,
        max_concurrent_replies=AT_ONCE,
        max_waiting_replies=WAITING,
    )
    process = psutil.Process(server.process.pid)

    def connections() -> int:
        found = process.net_connections(kind="tcp")
        return sum(connection.status != psutil.CONN_LISTEN for connection in found)

    looking = server.visit()

    def pruned() -> bool:
        looking.get("/healthz")  # a pool forgets its idle threads when it gives one work
        return process.num_threads() <= threads + CLIENTS + POOLS

    with server.client() as client:
        chat = new_chat(client)
        right = send(client, chat, max_new_tokens=24, temperature=0)
        crowd = Crowd(server, [new_chat(client) for _ in range(50)])
    crowd.all_come(range(100))  # fills the pools of threads and database connections
    wait_until(lambda: not connections())
    threads, files = process.num_threads(), process.num_fds()

    crowd.all_come(range(100, 500))
    assert sum(crowd.seen.values()) == 500
    assert crowd.seen["200"] > 75, crowd.seen
    assert crowd.seen.keys() <= {"200", "409", "503", ""}, crowd.seen
    wait_until(lambda: not connections())
    # Pools grow to as many as there are clients at once, and not with every client: a thread for each, and
    # a database connection, which are three files on SQLite.
    wait_until(pruned, 60, lambda: str(process.num_threads()))
    wait_until(lambda: process.num_fds() <= files + 3 * CLIENTS, 30, lambda: str(process.num_fds()))

    with server.client() as client:
        # A reply that still ran would be streaming in its chat, and hold a place and blocks of the cache.
        for chat_id in crowd.chats:
            wait_until(lambda chat_id=chat_id: is_over(client, chat_id), 60)
        again = client.post(
            f"/api/v1/messages/{right['id']}/regenerate",
            params={"stream": False},
            json={"max_new_tokens": 24, "temperature": 0},
        ).json()
        assert again["content"] == right["content"]

        def whole(number: int) -> int:
            """The tokens of a long conversation with its whole reply."""
            request = {"model": "deployed", "messages": [{"role": "user", "content": f"{number} " * 200}]}
            answer = client.post("/v1/chat/completions", json=request | {"max_tokens": 40})
            assert answer.status_code == 200, answer.text
            return int(answer.json()["usage"]["total_tokens"])

        with ThreadPoolExecutor(AT_ONCE + WAITING) as pool:  # every place, and more than the cache holds
            assert min(pool.map(whole, range(AT_ONCE + WAITING))) > 430
    assert "Traceback" not in server.log.read_text()


def is_over(client: httpx.Client, chat_id: str) -> bool:
    messages = client.get(f"/api/v1/chats/{chat_id}").json()["messages"]
    return all(message["state"] != "streaming" for message in messages)
