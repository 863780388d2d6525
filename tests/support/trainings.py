"""Rows, progress and stock trainings that the tests of the engine share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import KTOTrainer

from storage.examples.weights import Weights
from storage.exports.shapes import Shaper
from storage.settings import Settings
from tests.support.examples import example
from trainer.dataset import batch_order
from trainer.dataset.template import chat_template
from trainer.dataset.tokenise import TokenisedExample, tokenise
from trainer.engine import kto

WEIGHTS = Weights(desirable=0.8, undesirable=1.3)


def tiny_settings(folder: Path, model: Path | str, **changes: Any) -> Settings:
    """Settings for a short training in fp32, with the objective of TRL."""
    given = {"precision": "fp32", "lora_rank": 4, "learning_rate": 1e-2, "nll_weight": 0.0}
    return Settings(data_dir=folder, model=str(model), **given | changes)


def train(
    model: Any, tokenizer: Any, rows: Sequence[TokenisedExample], settings: Settings, **more: Any
) -> tuple[Any, kto.TrainingResult]:
    """`kto.train` with WEIGHTS and with checkpoints in the data directory, unless others are given."""
    given = {"weights": WEIGHTS, "output_dir": settings.data_dir / "checkpoints"}
    return kto.train(model, tokenizer, rows, settings=settings, **given | more)


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def sums(tokenizer: Any, count: int = 10, answer: str = "It is {}.") -> list[TokenisedExample]:
    """Tokenised rows, each in a chat of its own; every third is disliked."""
    examples = [
        example(f"What is {n} plus {n}?", answer.format(2 * n), label=n % 3 != 0, chat_id=str(n))
        for n in range(count)
    ]
    return tokenise(tokenizer, examples, max_length=256)[0]


def assert_same_steps(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> None:
    """Loss, norm of the gradient and KL of each step agree; `theirs` may be as TRL logs them."""
    for mine, other in zip(ours, theirs, strict=True):
        norm = other["gradient_norm"] if "gradient_norm" in other else other["grad_norm"]
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert mine["gradient_norm"] == pytest.approx(norm, rel=1e-4)
        assert mine["kl"] == pytest.approx(other["kl"], rel=1e-3, abs=1e-4)


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


def as_text(tokenizer: Any, row: TokenisedExample) -> dict[str, Any]:
    """Prompt, completion and label as an export of the shape kto-text has them."""
    text = Shaper(b"s" * 32, chat_template(tokenizer)).row("kto-text", row.example)
    return {name: text[name] for name in ("prompt", "completion", "label")}


def train_with_stock_trl(
    model: Any, tokenizer: Any, rows: Sequence[TokenisedExample], args: Any, **more: Any
) -> tuple[list[dict[str, Any]], Any]:
    """TRL's own KTOTrainer on the texts of these rows, in this order: what it logged, and its model.

    The texts are those of an export of the shape kto-text: of messages TRL would also train on the line break
    that the template writes after the end of a reply.
    """
    texts = [as_text(tokenizer, row) for row in rows]
    trainer = KTOTrainer(
        model=model, args=args, train_dataset=Dataset.from_list(texts), processing_class=tokenizer, **more
    )
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line], trainer.model
