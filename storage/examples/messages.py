"""What examples, exports and tokenising share: the type of a message, and where two texts part."""

from collections.abc import Sequence

Message = dict[str, str]


def common_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    """How many items at the beginning of two sequences are equal."""
    for position, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return position
    return min(len(left), len(right))
