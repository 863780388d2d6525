"""Splits examples by chat into tokenised rows to train on and rows to evaluate on."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from storage.examples.duplicates import digest
from storage.examples.example import Example
from storage.examples.weights import source_weight
from storage.settings import Settings
from trainer.dataset.hold_out import hold_out
from trainer.dataset.selection import age_weight, is_vote
from trainer.dataset.tokenise import LeftOut, TokenisedExample, tokenise

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
    """Tokenise the examples, drop contradictions, and hold out complete chats by a hash of seed and chat id.

    With a `moment`, rows lose weight with age, except replies by the version `on_policy`. `check` may raise
    Interrupted.
    """

    def weigh(example: Example) -> float:
        weight = source_weight(example.origin, settings.import_weight)
        if moment is None:
            return weight
        return weight * age_weight(example, settings, moment=moment, on_policy=on_policy)

    rows, dropped = tokenise(tokenizer, examples, max_length=settings.max_length, weigh=weigh, check=check)
    rows = without_contradictions(rows, dropped)
    held_chats = hold_out(
        by_chat([row.example for row in rows]), fraction=settings.hold_out_fraction, seed=settings.seed
    )
    return Split(
        training=[row for row in rows if row.chat_id not in held_chats],
        held_out=[row for row in rows if row.chat_id in held_chats and is_vote(row.example)],
        held_chats=held_chats,
        dropped=dropped,
    )


def without_contradictions(rows: Sequence[TokenisedExample], dropped: LeftOut) -> list[TokenisedExample]:
    """Keep the rows whose label is the majority for their text, in their order.

    A text is the messages of prompt and reply. The other rows are added to `dropped`, each with the first row
    that has the opposite label. If both labels are equally frequent, all rows of the text are dropped.
    """
    texts = [digest(row.example.prompt, row.example.completion) for row in rows]
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
            dropped.add(REASON, row.example.message_id, f"unlike {opposite}")
    return kept


def by_chat(examples: Sequence[Example]) -> dict[str, tuple[int, int]]:
    """The votes (up, down) of each chat. Chats with no votes, only other examples, are included."""
    counts = Counter((example.chat_id, example.label) for example in examples if is_vote(example))
    return {e.chat_id: (counts[e.chat_id, True], counts[e.chat_id, False]) for e in examples}
