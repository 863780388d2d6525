"""Splits examples by chat into tokenised rows to train on and rows to evaluate on."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from storage.examples.duplicates import digest
from storage.examples.example import Example
from storage.examples.filters import is_judged
from storage.examples.weights import source_weight
from storage.settings import Settings
from trainer.dataset.repetition import without_repetition
from trainer.dataset.selection import age_weight, is_vote
from trainer.dataset.tokenise import LeftOut, TokenisedExample, tokenise

# If a kind has fewer held-out votes than this, chats are added until it has its share.
FEW = 4
CUT_REASON = "cut to {} tokens it is a reply to the same prompt that is rated the other way at least as often"
REASON = "the same reply to the same prompt is rated the other way at least as often"


@dataclass(frozen=True)
class Split:
    """Both sets of rows. `dropped` counts examples in neither; only votes of `held_chats` are held out."""

    training: list[TokenisedExample]
    held_out: list[TokenisedExample]
    held_chats: set[str]
    dropped: LeftOut


def split_by_chat(
    tokenizer: Any,
    examples: Sequence[Example],
    settings: Settings,
    *,
    moment: datetime | None = None,
    on_policy: str = "",
    check: Callable[[], None] = lambda: None,
) -> Split:
    """Tokenise the examples, drop some, and hold out complete chats by a hash of seed and chat id.

    Contradictions are dropped, and liked replies that repeat themselves.
    What a judge model rated is held out only with `judge_in_gate`. With a `moment`, rows lose weight with
    age, except replies by the version `on_policy`. `check` may raise Interrupted.
    """

    def weigh(example: Example) -> float:
        weight = source_weight(
            example.origin, import_weight=settings.import_weight, judge_weight=settings.judge_weight
        )
        weight *= example.share or 1.0
        if moment is None:
            return weight
        return weight * age_weight(example, settings, moment=moment, on_policy=on_policy)

    rows, dropped = tokenise(tokenizer, examples, max_length=settings.max_length, weigh=weigh, check=check)
    rows = without_contradictions(rows, dropped, settings.max_length)
    rows = without_repetition(rows, dropped, settings.max_repetition)
    by_people = [row for row in rows if settings.judge_in_gate or not is_judged(row.example.origin)]
    held_chats = hold_out(
        by_chat([row.example for row in by_people]), fraction=settings.hold_out_fraction, seed=settings.seed
    )
    return Split(
        training=[row for row in rows if row.chat_id not in held_chats],
        held_out=[row for row in by_people if row.chat_id in held_chats and is_vote(row.example)],
        held_chats=held_chats,
        dropped=dropped,
    )


def without_contradictions(
    rows: Sequence[TokenisedExample], dropped: LeftOut, max_length: int
) -> list[TokenisedExample]:
    """Keep the rows whose label is the majority for their text, in their order.

    A text is the messages of prompt and reply, and then, of the rows left, the ids that are trained on: texts
    that differ only beyond `max_length` are the same. The other rows are added to `dropped`, each with the
    first row that has the opposite label. If both labels are equally frequent, all rows of the text are
    dropped.
    """
    texts = [digest(row.example.prompt, row.example.completion) for row in rows]
    kept = _majority(rows, texts, dropped, REASON)
    return _majority(kept, [_seen(row, max_length) for row in kept], dropped, CUT_REASON.format(max_length))


def _seen(row: TokenisedExample, max_length: int) -> bytes:
    """A digest of the ids that are trained on."""
    ids = [*row.prompt_ids, -1, *row.completion_ids][: max_length + 1]
    return hashlib.sha256(array("q", ids).tobytes()).digest()


def _majority(
    rows: Sequence[TokenisedExample], texts: Sequence[bytes], dropped: LeftOut, reason: str
) -> list[TokenisedExample]:
    votes = Counter((text, row.label) for text, row in zip(texts, rows, strict=True))
    first: dict[tuple[bytes, bool], TokenisedExample] = {}
    for text, row in zip(texts, rows, strict=True):
        first.setdefault((text, row.label), row)
    kept = []
    for text, row in zip(texts, rows, strict=True):
        if votes[text, row.label] > votes[text, not row.label]:
            kept.append(row)
        else:
            opposite = first[text, not row.label].example.message_id
            dropped.add(reason, row.example.message_id, f"unlike {opposite}")
    return kept


def by_chat(examples: Sequence[Example]) -> dict[str, tuple[int, int]]:
    """The votes (up, down) of each chat. Chats with no votes, only other examples, are included."""
    counts = Counter((example.chat_id, example.label) for example in examples if is_vote(example))
    return {e.chat_id: (counts[e.chat_id, True], counts[e.chat_id, False]) for e in examples}


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
    found = hashlib.sha256(f"{seed}:{chat}".encode()).digest()
    return int.from_bytes(found[:8], "big") / 2**64
