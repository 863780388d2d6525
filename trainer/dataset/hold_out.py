"""Which chats are held out of training, to judge its result by. Pure; no torch."""

import hashlib
from collections.abc import Mapping

# Below so many held-out votes of a kind, chats are added until that kind has its share.
FEW = 4


def hold_out(groups: Mapping[str, tuple[int, int]], *, fraction: float, seed: int) -> set[str]:
    """The chats kept out of training; `groups` maps a chat's id to its (ups, downs).

    A chat is held out if a hash of the seed and its id falls below `fraction`, whatever other chats
    there are. So it stays on its side as chats are added, and no version is judged by chats that an
    earlier one was trained on. That alone could leave a small hold-out empty or of one kind. While a
    kind has fewer than four held-out votes and less than its share of them (rounded, at least two),
    the next chats in the order of the hash that have such votes are taken too.

    At most half of the votes of either kind are held out, so that a rare kind is still trained on. A
    chat can change sides as others are added where either of these two rules decides about it.
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
    """The chat's place between 0 and 1, the same whatever other chats there are."""
    digest = hashlib.sha256(f"{seed}:{chat}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
