"""From examples to rows to train on and rows to judge by, of different chats. Knows no run and no file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from storage.examples.example import Example
from storage.settings import Settings
from trainer.dataset.batch_order import hold_out
from trainer.dataset.contradictions import without_contradictions
from trainer.dataset.selection import aged
from trainer.dataset.snapshot import by_chat, is_vote
from trainer.dataset.tokenise import LeftOut, TokenisedExample, tokenise


@dataclass(frozen=True)
class Split:
    """`dropped` counts the examples that are in neither; of `held_chats` only votes are judged by."""

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
    """Tokenise, settle contradictions and hold whole chats out, by a hash of the seed and the chat.

    With a `moment` rows weigh less with age, those of the version `on_policy` aside. `check` may raise
    Interrupted.
    """
    rows, dropped = tokenise(
        tokenizer,
        examples,
        max_length=settings.max_length,
        import_weight=settings.import_weight,
        check=check,
    )
    rows = without_contradictions(rows, dropped)
    if moment is not None:
        rows = aged(rows, settings, moment=moment, on_policy=on_policy)
    held_chats = hold_out(
        by_chat([row.example for row in rows]), fraction=settings.hold_out_fraction, seed=settings.seed
    )
    return Split(
        training=[row for row in rows if row.chat_id not in held_chats],
        held_out=[row for row in rows if row.chat_id in held_chats and is_vote(row.example)],
        held_chats=held_chats,
        dropped=dropped,
    )
