"""The line of replies that wait for their turn, fair between people.

Knows who waits for what; knows no model and no thread.
"""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Whoever has the fewest replies under way comes first, then whose last turn is longest ago.

    So ten replies that one person asked for hold up the reply of another by one turn, not by ten.
    """

    def __init__(self) -> None:
        self._line: list[tuple[str, T]] = []
        self._turns: dict[str, int] = {}  # each person's latest, while anybody waits

    def __len__(self) -> int:
        return len(self._line)

    def join(self, person: str, item: T) -> None:
        self._line.append((person, item))

    def leave(self, those: Callable[[T], bool]) -> list[T]:
        """Who left without a turn: all those who are meant."""
        left = [item for _, item in self._line if those(item)]
        self._line = [entry for entry in self._line if not those(entry[1])]
        return left

    def in_turn(self, under_way: Mapping[str, int]) -> list[T]:
        """Those who wait, whose turn it is first; `under_way` counts each person's replies."""

        def rank(entry: tuple[str, T]) -> tuple[int, int]:
            person = entry[0]
            return under_way.get(person, 0), self._turns.get(person, 0)

        return [item for _, item in sorted(self._line, key=rank)]

    def take_turn(self, item: T) -> None:
        """It leaves the line to be served."""
        at = next(at for at, (_, waiting) in enumerate(self._line) if waiting is item)
        person, _ = self._line.pop(at)
        self._turns[person] = max(self._turns.values(), default=0) + 1
        if not self._line:
            self._turns.clear()
