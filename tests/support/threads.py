"""Calls that run at the same time, each in its own thread."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def at_once(calls: Iterable[Callable[[], T]]) -> list[T]:
    """The results of the calls, in their order; raises the first one's exception, if any."""
    every = list(calls)
    with ThreadPoolExecutor(len(every)) as pool:
        return [running.result() for running in [pool.submit(call) for call in every]]
