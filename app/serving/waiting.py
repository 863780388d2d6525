"""The line of replies that wait for their turn, fair between people.

Knows who waits for what; knows no model and no thread.
"""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class WaitingLine(Generic[T]):
    """First come, first served, but whoever has the fewest replies under way comes first.

    So ten replies that one person asked for hold up the reply of another by one turn, not by ten.
    """

    def __init__(self) -> None:
        self._line: list[tuple[str, T]] = []

    def __len__(self) -> int:
        return len(self._line)

    def join(self, person: str, item: T) -> None:
        self._line.append((person, item))

    def leave(self, those: Callable[[T], bool]) -> list[T]:
        """Who left: all those who are meant."""
        left = [item for _, item in self._line if those(item)]
        self._line = [entry for entry in self._line if not those(entry[1])]
        return left

    def in_turn(self, under_way: Mapping[str, int]) -> list[T]:
        """Those who wait, whose turn it is first; `under_way` counts each person's replies."""
        return [item for _, item in sorted(self._line, key=lambda entry: under_way.get(entry[0], 0))]
