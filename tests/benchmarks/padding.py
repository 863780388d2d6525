"""What stock TRL pads in our order, with and without regard to lengths. Counted, not timed.

Both passes of a step count: each prompt with its own reply and with the reply before it, padded to the
longest of the micro-batch. The largest micro-batch without padding is what bounds our engine's memory.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from storage.settings import Settings
from tests.benchmarks.kto_engine import read_examples
from tests.benchmarks.report import data_parser, print_report
from trainer.dataset import batch_order
from trainer.dataset.tokenise import TokenisedExample, tokenise
from trainer.model.base_model import load_tokenizer, resolve

SEEDS = 10


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where the default model is")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--every-reply", action="store_true", help="rate each reply of chats of 6+ messages")
    arguments = parser.parse_args()
    examples = read_examples(arguments.data, every_reply=arguments.every_reply)
    tokenizer = load_tokenizer(resolve(Settings(data_dir=arguments.data_dir)))
    rows = [
        replace(row, completion_ids=row.completion_ids[: arguments.max_length - len(row.prompt_ids)])
        for row in tokenise(tokenizer, examples, max_length=arguments.max_length)[0]
    ]
    blind = [replace(row, prompt_ids=[0], completion_ids=[0]) for row in rows]
    print_report(
        "padding",
        {
            "rows": len(rows),
            "tokens": sum(row.length for row in rows),
            "lengths regarded": _measure(rows, rows, arguments),
            "lengths not regarded": _measure(rows, blind, arguments),
        },
    )


def _measure(
    rows: list[TokenisedExample], ordered: list[TokenisedExample], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Means over seeds of the padding, as a share of the tokens, and of the largest micro-batch's tokens."""
    shares, largest = [], []
    for seed in range(SEEDS):
        tokens = padded = 0
        totals = []
        for numbers in batch_order.blocks(ordered, batch_size=arguments.batch_size, seed=seed):
            block = [rows[number] for number in numbers]
            own = [row.length for row in block]
            mismatched = [
                min(arguments.max_length, len(row.prompt_ids) + len(block[place - 1].completion_ids))
                for place, row in enumerate(block)
            ]
            tokens += sum(own) + sum(mismatched)
            padded += len(block) * (max(own) + max(mismatched))
            totals.append(sum(own))
        shares.append(padded / tokens - 1)
        largest.append(max(totals))
    return {"padding": fmean(shares), "largest micro-batch": fmean(largest)}


if __name__ == "__main__":
    main()
