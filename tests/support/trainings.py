"""Rows, progress and stock trainings that the tests of the engine share."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from trl import KTOTrainer

from storage.settings import Settings
from tests.support.examples import example
from trainer.dataset import batch_order
from trainer.dataset.tokenise import TokenisedExample, tokenise


def sums(tokenizer: Any, count: int = 10, answer: str = "It is {}.") -> list[TokenisedExample]:
    """Tokenised rows, each in a chat of its own; every third is disliked."""
    examples = [
        example(f"What is {n} plus {n}?", answer.format(2 * n), label=n % 3 != 0, chat_id=str(n))
        for n in range(count)
    ]
    return tokenise(tokenizer, examples, max_length=256)[0]


class Steps(list[dict[str, Any]]):
    """A progress callback that keeps the states of steps."""

    def __call__(self, state: dict[str, Any]) -> None:
        if "loss" in state:
            self.append(state)

    def of(self, name: str) -> list[Any]:
        return [step[name] for step in self]


def in_order(rows: Sequence[TokenisedExample], settings: Settings) -> list[TokenisedExample]:
    """The rows as the first epoch trains on them."""
    blocks = batch_order.blocks(rows, batch_size=settings.batch_size, seed=settings.seed)
    return [rows[number] for block in blocks for number in block]


def train_with_stock_trl(
    model: Any, tokenizer: Any, rows: Sequence[TokenisedExample], args: Any, **more: Any
) -> tuple[list[dict[str, Any]], Any]:
    """TRL's own KTOTrainer on the texts of these rows, in this order: what it logged, and its model."""
    texts = [
        {"prompt": row.example.prompt, "completion": row.example.completion, "label": row.label}
        for row in rows
    ]
    trainer = KTOTrainer(
        model=model, args=args, train_dataset=Dataset.from_list(texts), processing_class=tokenizer, **more
    )
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line], trainer.model
