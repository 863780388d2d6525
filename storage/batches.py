"""Groups the items of a stream into lists of bounded number and size."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def batches(
    items: Iterable[T], size: Callable[[T], int], *, most_items: int, most_size: int
) -> Iterator[list[T]]:
    """Lists of consecutive items; each ends with the item that reaches one of the limits."""
    batch: list[T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if len(batch) >= most_items or total >= most_size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
