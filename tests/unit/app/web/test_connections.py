"""How long and how many connections are held, over real sockets."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from app.web.connections import BoundedConnection
from tests.support.threads import in_a_loop

Open = Callable[[bytes], Awaitable[asyncio.StreamReader]]
WHOLE, HALF = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", b"GET / HTTP/1.1\r\nHo"


class Impatient(BoundedConnection):
    head_seconds = 0.2


def connected(test: Callable[[Open], Awaitable[None]], *, limit: int = 100, answers_after: float = 0) -> None:
    """Run the test with a function that connects, sends, and returns what comes back."""

    async def run() -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.sleep(answers_after)
            await PlainTextResponse("here")(scope, receive, send)

        config = uvicorn.Config(app, limit_concurrency=limit, log_config=None)
        state, writers = ServerState(), []
        server = await asyncio.get_running_loop().create_server(
            lambda: Impatient(config, state, {}), "127.0.0.1", 0
        )

        async def open(sent: bytes) -> asyncio.StreamReader:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writers.append(writer)
            writer.write(sent)
            return reader

        async with asyncio.timeout(4):  # less than uvicorn itself waits for a second request
            await test(open)
        for writer in writers:
            writer.close()
        server.close()

    in_a_loop(run())


@pytest.mark.parametrize("sent", [b"", HALF, WHOLE, WHOLE + HALF])
def test_a_connection_without_the_head_of_a_request_is_closed_in_time(sent: bytes) -> None:
    async def test(open: Open) -> None:
        answer = await (await open(sent)).read()
        assert answer.count(b"200 OK") == sent.count(WHOLE)

    connected(test)


@pytest.mark.parametrize("sent", [WHOLE, WHOLE * 2])
def test_an_answer_may_take_longer(sent: bytes) -> None:
    async def test(open: Open) -> None:
        answer = await (await open(sent)).read()
        assert answer.count(b"200 OK") == sent.count(WHOLE)

    connected(test, answers_after=2 * Impatient.head_seconds)


def test_of_too_many_connections_the_last_are_told_and_more_are_closed_at_once() -> None:
    async def test(open: Open) -> None:
        slow = [await open(HALF) for _ in range(4)]
        assert b"503 Service Unavailable" in await (await open(WHOLE)).read()
        held = [await open(HALF) for _ in range(2)]
        refused = await open(WHOLE)
        with pytest.raises((ConnectionError, EOFError)):
            await refused.readexactly(1)
        assert [await reader.read() for reader in (*slow, *held)] == [b""] * 6

    connected(test, limit=4)
