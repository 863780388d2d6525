"""Calls and coroutines in threads of their own."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """The result of the coroutine, run in a thread of its own.

    `asyncio.run` fails in a test's own thread when tests with a browser came before: Playwright's event
    loop goes on there until the session ends.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def at_once(calls: Iterable[Callable[[], T]]) -> list[T]:
    """The results of the calls, in their order; raises the first one's exception, if any."""
    every = list(calls)
    with ThreadPoolExecutor(len(every)) as pool:
        return [running.result() for running in [pool.submit(call) for call in every]]
