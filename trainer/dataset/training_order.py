"""The order in which a training meets its rows, micro-batch by micro-batch, as JSON lines. No torch.

What the engines do follows from `batches.order`; so does this, and a training in one process is not needed
to know it. Knows no trainer.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from storage.settings import Settings
from trainer.dataset import batch_order
from trainer.dataset.tokenise import TokenisedExample


def training_order(
    rows: Sequence[TokenisedExample], settings: Settings, *, processes: int = 1
) -> Iterator[dict[str, Any]]:
    """Each micro-batch in its turn: `epoch`, `step` and `micro_batch`, all from 1, and its `records`.

    Records go by the names of their examples: the place in a file, or a message id. Each prompt's mismatched
    reply is that of the record before it in its micro-batch, the first one's that of the last. Of several
    processes each takes the next micro-batch in turn.
    """
    in_a_step = settings.gradient_accumulation * processes
    step = 0
    for epoch in range(math.ceil(settings.epochs)):
        blocks = batch_order.blocks(rows, batch_size=settings.batch_size, seed=settings.seed, epoch=epoch)
        steps_an_epoch = math.ceil(len(blocks) / in_a_step)
        for number, block in enumerate(blocks):
            if number % in_a_step == 0:
                if step >= math.ceil(settings.epochs * steps_an_epoch):
                    return
                step += 1
            yield {
                "epoch": epoch + 1,
                "step": step,
                "micro_batch": number + 1,
                "records": [rows[row].example.message_id for row in block],
            }


def write_order(
    rows: Sequence[TokenisedExample], settings: Settings, file: Path, *, processes: int = 1
) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for micro_batch in training_order(rows, settings, processes=processes):
            lines.write(json.dumps(micro_batch) + "\n")
