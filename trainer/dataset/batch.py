"""A micro-batch as token ids: the input that the engines and the gate score."""

from collections.abc import Sequence
from typing import NamedTuple

from trainer.dataset.tokenise import TokenisedExample

Ids = list[int]


class Item(NamedTuple):
    """A prompt with its own reply and the mismatched reply of another row. A reply of None is not scored."""

    prompt: Ids
    completion: Ids | None
    mismatched: Ids | None


Batch = list[Item]


def make_batch(rows: Sequence[TokenisedExample], *, max_length: int, mismatched: bool = True) -> Batch:
    """Each row's mismatched reply is the reply of the row before it; the first row's is that of the last.

    Replies are cut so that prompt and reply together have at most `max_length` tokens.
    """
    batch = []
    for place, row in enumerate(rows):
        room = max_length - len(row.prompt_ids)
        other = rows[place - 1].completion_ids[:room] if mismatched else None
        batch.append(Item(row.prompt_ids, row.completion_ids[:room], other))
    return batch
