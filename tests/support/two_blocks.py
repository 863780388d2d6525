"""One process with the doubled batch that TRL has: what two processes with two rows each must equal."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from storage.examples.weights import Weights
from storage.settings import Settings
from tests.support.training_env import TrainingEnv
from trainer.dataset import batch_order
from trainer.dataset.plan import plan_training
from trainer.dataset.tokenise import LeftOut, TokenisedExample
from trainer.engine import kto
from trainer.engine.trl_trainer import ExactTrainer
from trainer.model.base_model import load_model, resolve


class _TwoBlocks:
    """Stock TRL's batch of two blocks whose mismatched pairs stay within each."""

    def __init__(self, rows: Sequence[TokenisedExample], tokenizer: Any) -> None:
        self.rows, self.collate = rows, DataCollatorForUnpairedPreference(pad_token_id=tokenizer.pad_token_id)

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [self.rows[item["row"]] for item in items]
        features = [
            {
                "prompt_ids": row.prompt_ids,
                "completion_ids": row.completion_ids,
                "KL_completion_ids": rows[position ^ 1].completion_ids,  # the other one of its two
                "label": row.label,
            }
            for position, row in enumerate(rows)
        ]
        return self.collate(features) | {"weight": torch.ones(len(rows))}


def train_doubled(
    rows: Sequence[TokenisedExample], weights: Weights, settings: Settings, folder: Path
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """What was logged of each step, and the trained weights; `settings` are those of the two processes.

    The rows must make whole pairs of blocks of two.
    """
    assert settings.batch_size == 2
    assert len(rows) % 4 == 0
    base, tokenizer = load_model(resolve(settings))
    seen: list[dict[str, float]] = []

    class Steps(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if "loss" in kwargs["logs"]:
                seen.append(dict(kwargs["logs"]))

    doubled = settings.model_copy(update={"batch_size": 4})
    one: Any = ExactTrainer(
        *(base, tokenizer, rows),
        max_length=settings.max_length,
        args=kto.training_arguments(base, weights, doubled, folder, False),
        peft_config=kto.lora_config(settings),
        callbacks=[Steps()],
    )
    one.data_collator = _TwoBlocks(rows, tokenizer)

    def set_epoch(epoch: int) -> None:
        blocks = batch_order.blocks(rows, batch_size=2, seed=settings.seed, epoch=epoch)
        one.blocks.own = [
            list(chain.from_iterable(blocks[start : start + 2])) for start in range(0, len(blocks), 2)
        ]

    one.blocks.set_epoch = set_epoch
    set_epoch(0)
    one.train()
    return seen, {name: p.detach() for name, p in one.model.named_parameters() if p.requires_grad}


def assert_resumed_with_the_loss_of_one_process(env: TrainingEnv, run_id: str, folder: Path) -> None:
    """That the second attempt of two processes went on at step 8 and ended as one process alone does."""
    run = env.run(run_id)
    assert (run.state, run.attempts) == ("succeeded", 2), env.log(run_id)
    trained = run.metrics["training"]
    assert (trained["processes"], trained["steps"], trained["resumed_from_step"]) == (2, 18, 8)
    rows = env.rows_of(run_id)
    weights = plan_training(rows, LeftOut(), env.settings).weights
    steps, _ = train_doubled(rows, weights, env.settings, folder)
    assert trained["last_loss"] == pytest.approx(steps[-1]["loss"], rel=1e-4)
