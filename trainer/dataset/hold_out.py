"""Decides which chats are held out of training to evaluate its result. Pure; no torch."""

import hashlib
from collections.abc import Mapping

# If a kind has fewer held-out votes than this, chats are added until it has its share.
FEW = 4


def hold_out(groups: Mapping[str, tuple[int, int]], *, fraction: float, seed: int) -> set[str]:
    """The ids of the chats to hold out; `groups` maps a chat's id to its (ups, downs).

    A chat is held out if a hash of the seed and its id is below `fraction`, independent of the other chats.
    So it stays on its side as chats are added, and no version is evaluated on chats that an earlier one was
    trained on. This alone could leave a small hold-out empty or with one kind of vote. So if a kind has fewer
    than four held-out votes and less than its share (rounded, at least two), the next chats with such votes,
    in hash order, are added.

    At most half of the votes of either kind are held out, so that a rare kind is still trained on. A chat
    decided by one of these two rules can change sides as chats are added.
    """
    by_hash = sorted(groups, key=lambda chat: (_position(seed, chat), chat))
    totals = [sum(counts[kind] for counts in groups.values()) for kind in (0, 1)]
    votes = [0, 0]
    held: set[str] = set()

    def take(chat: str) -> None:
        after = [votes[kind] + groups[chat][kind] for kind in (0, 1)]
        if all(2 * after[kind] <= totals[kind] for kind in (0, 1)):
            held.add(chat)
            votes[:] = after

    for chat in by_hash:
        if _position(seed, chat) < fraction:
            take(chat)
    for kind in (0, 1):
        share = min(FEW, max(2, round(fraction * totals[kind])))
        for chat in by_hash:
            if votes[kind] < share and chat not in held and groups[chat][kind]:
                take(chat)
    return held


def _position(seed: int, chat: str) -> float:
    """The chat's hash as a number from 0 to 1, independent of the other chats."""
    digest = hashlib.sha256(f"{seed}:{chat}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
