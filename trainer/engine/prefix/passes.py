"""Which token sequences ride on which: passes through a model that share their beginnings. Pure.

Rated turns of one chat are beginnings of one another, and regenerated replies share their prompt. A
plan says which sequences run, and from where they branch; every sequence is found by its token ids,
so a chat template that renders a turn differently later simply shares less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.examples.messages import common_prefix


@dataclass(frozen=True)
class Pass:
    """`ids` from position `start` on; the positions before are those of the pass `parent`."""

    start: int
    ids: list[int]
    parent: int | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.ids)


@dataclass(frozen=True)
class SharedPasses:
    """The passes, parents first, and for each sequence the pass on which it ends."""

    passes: list[Pass]
    of_sequence: list[int]

    def spans(self, number: int, first: int, last: int) -> list[tuple[int, slice]]:
        """Where the positions from `first` to `last` of what ends on pass `number` are.

        Pairs of a pass and a slice of its positions, in their order.
        """
        spans: list[tuple[int, slice]] = []
        here: int | None = number
        while here is not None and last > first:
            one = self.passes[here]
            if last > one.start:
                begin = max(first, one.start)
                spans.append((here, slice(begin - one.start, last - one.start)))
                last = begin
            here = one.parent
        return spans[::-1]


def share_prefixes(sequences: Sequence[Sequence[int]], *, worth_sharing: int) -> SharedPasses:
    """Longest sequences first; each rides on the pass with which it shares most.

    One that is the beginning of another needs no pass of its own. One that shares at least
    `worth_sharing` tokens branches off. Others run on their own.
    """
    passes: list[Pass] = []
    whole: list[list[int]] = []  # all ids up to the end of each pass
    of_sequence = [0] * len(sequences)
    for number in sorted(range(len(sequences)), key=lambda one: (-len(sequences[one]), one)):
        ids = list(sequences[number])
        shared, parent = max(
            ((common_prefix(ids, other), -index) for index, other in enumerate(whole)), default=(0, 0)
        )
        if shared == len(ids):
            of_sequence[number] = -parent
            continue
        of_sequence[number] = len(passes)
        if shared < worth_sharing:
            passes.append(Pass(0, ids))
        else:
            # The earliest of those that share so much: what it branched from itself shares less.
            passes.append(Pass(shared, ids[shared:], -parent))
        whole.append(ids)
    return SharedPasses(passes, of_sequence)
