"""Plans which token sequences share a pass through the model, by their common prefixes. Pure.

Rated turns of one chat are prefixes of one another, and regenerated replies share their prompt. The plan says
which sequences run and where they branch. Sequences are compared by token ids, so a chat template that
renders a turn differently later simply shares less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.examples.messages import common_prefix


@dataclass(frozen=True)
class Pass:
    """`ids` from position `start` on; earlier positions are those of the pass `parent`."""

    start: int
    ids: list[int]
    parent: int | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.ids)


@dataclass(frozen=True)
class SharedPasses:
    """The passes, parents first, and for each sequence the pass where it ends."""

    passes: list[Pass]
    of_sequence: list[int]

    def spans(self, number: int, first: int, last: int) -> list[tuple[int, slice]]:
        """The positions from `first` to `last` of a sequence that ends on pass `number`.

        Returns pairs of a pass and a slice of its positions, in order.
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
    """Assign sequences to passes, longest first; each joins the pass with which it shares most.

    A sequence that is a prefix of another needs no pass. One that shares at least `worth_sharing` tokens
    branches off. Others get a pass of their own.
    """
    passes: list[Pass] = []
    full_ids: list[list[int]] = []  # all ids up to the end of each pass
    of_sequence = [0] * len(sequences)
    for number in sorted(range(len(sequences)), key=lambda one: (-len(sequences[one]), one)):
        ids = list(sequences[number])
        shared, parent = max(
            ((common_prefix(ids, other), -index) for index, other in enumerate(full_ids)), default=(0, 0)
        )
        if shared == len(ids):
            of_sequence[number] = -parent
            continue
        of_sequence[number] = len(passes)
        if shared < worth_sharing:
            passes.append(Pass(0, ids))
        else:
            # On ties the earliest pass wins. Its own parent shares less, so the branch point is in this pass.
            passes.append(Pass(shared, ids[shared:], -parent))
        full_ids.append(ids)
    return SharedPasses(passes, of_sequence)
