"""A reply while it is written, as event loops read it."""

import asyncio
from collections.abc import Callable, Coroutine
from threading import Event, Thread
from typing import Any

import pytest

from app.chat.live_reply import LiveReply
from app.serving.reply import Outcome, ReplyEnd, ReplyStream
from storage.db.tables import Message
from storage.errors import Busy
from tests.support.threads import in_a_loop

SILENCE = 60.0
END = ReplyEnd("One two", "stop", None, prompt_tokens=1, timings={})


@pytest.fixture
def cancelled() -> Event:
    return Event()


@pytest.fixture
def live(cancelled: Event) -> LiveReply:
    """A reply that is saved as soon as it ends."""

    def save(reply: LiveReply, outcome: Outcome) -> None:
        reply.publish(outcome, Message(chat_id="chat", role="assistant"))

    def begin(_: ReplyStream) -> Callable[[], object]:
        return cancelled.set

    return LiveReply(begin, "chat", "question", "reply", "v1", on_piece=lambda _: None, on_end=save)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await work

    in_a_loop(bounded())


def test_what_came_meanwhile_is_read_at_once_and_then_the_end(live: LiveReply) -> None:
    async def read() -> None:
        live.write("One")
        live.write(" two")
        live.close(END)
        assert [text async for text in live.follow(SILENCE)] == ["One two"]
        assert list(live) == ["One", " two"]

    run(read())


def test_a_reader_is_woken_by_another_thread(live: LiveReply) -> None:
    async def read() -> None:
        reader = live.follow(SILENCE)

        async def next_after(call: Callable[..., object], *arguments: Any) -> str | None:
            waiting = asyncio.ensure_future(anext(reader, "over"))
            await asyncio.sleep(0)  # until it waits
            Thread(target=call, args=arguments).start()
            return await waiting

        for text in ("One", " two"):
            assert await next_after(live.write, text) == text
        assert await next_after(live.close, END) == "over"

    run(read())


def test_silence_is_reported_and_then_the_text_still_comes(live: LiveReply) -> None:
    async def read() -> None:
        reader = live.follow(0.01)
        assert await anext(reader) is None
        assert await anext(reader) is None
        live.write("One")
        assert await anext(reader) == "One"

    run(read())


def test_an_error_comes_after_the_text(live: LiveReply) -> None:
    async def read() -> None:
        live.write("One")
        live.close(Busy("It failed."))
        reader = live.follow(SILENCE)
        assert await anext(reader) == "One"
        with pytest.raises(Busy, match="It failed"):
            await anext(reader)

    run(read())


def test_the_last_reader_who_leaves_before_the_end_cancels(live: LiveReply, cancelled: Event) -> None:
    async def read() -> None:
        live.write("One")
        one, two = live.follow(SILENCE), iter(live)
        assert await anext(one) == next(two) == "One"
        await one.aclose()  # type: ignore[attr-defined]
        assert not cancelled.is_set()
        two.close()  # type: ignore[attr-defined]
        assert cancelled.is_set()

    run(read())


def test_a_reader_who_leaves_after_the_end_cancels_nothing(live: LiveReply, cancelled: Event) -> None:
    async def read() -> None:
        live.write("One")
        reader = live.follow(SILENCE)
        await anext(reader)
        live.close(END)
        await reader.aclose()  # type: ignore[attr-defined]
        assert not cancelled.is_set()

    run(read())
