"""Shared by examples, exports and tokenisation: the type of a message, and the common prefix of two texts."""

from collections.abc import Sequence

Message = dict[str, str]


def common_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    """The length of the common prefix of two sequences, in items."""
    for position, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return position
    return min(len(left), len(right))
