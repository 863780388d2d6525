"""Trains DPO and IPO on pairs of an up and a down reply, for sweeps, with TRL's DPOTrainer on given ids."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, set_seed
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from storage.settings import Settings
from trainer.dataset.batch import make_batch
from trainer.engine.callbacks import CancellationCallback, Progress, ProgressCallback
from trainer.engine.estimates import checkpoints_activations
from trainer.engine.kto import common_arguments, lora_config, run_trainer
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.prefix.scorer import Scores
from trainer.sweep.data import Pair
from trainer.sweep.grid import Loss

LOSS_TYPES: dict[Loss, str] = {"dpo": "sigmoid", "ipo": "ipo"}  # as TRL names them


def train_on_pairs(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    *,
    loss: Loss,
    settings: Settings,
    output_dir: Path,
    references: ReferenceCache | None = None,
    progress: Progress = lambda _state: None,
    check: Callable[[], None] = lambda: None,
) -> tuple[Any, float]:
    """Train a new LoRA adapter on `model`; returns the PEFT model and the seconds it took.

    A micro-batch has half as many pairs as KTO's has rows, so that a step sees the same number of replies.
    The model with its adapter off is the reference. `check` is called at the end of each step and may raise
    Interrupted. Raises Diverged.
    """
    set_seed(settings.seed)  # before the adapter is created, as in TRL's KTOTrainer
    rows = [row for pair in pairs for row in (pair.up, pair.down)]
    args = common_arguments(
        model, settings, output_dir, checkpoints_activations(model, rows, settings, "trl")
    )
    pairs_per_batch = max(1, settings.batch_size // 2)
    cancellation = CancellationCallback(check)
    trainer = _ExactPairs(
        model,
        tokenizer,
        pairs,
        args=DPOConfig(
            **{**args, "per_device_train_batch_size": pairs_per_batch}, loss_type=[LOSS_TYPES[loss]]
        ),
        max_length=settings.max_length,
        references=references,
        peft_config=lora_config(settings),
        callbacks=[
            ProgressCallback(progress, 2 * pairs_per_batch * settings.gradient_accumulation),
            cancellation,
        ],
    )
    seconds = run_trainer(trainer, cancellation)
    return trainer.model, seconds


class _ExactPairs(DPOTrainer):
    """DPOTrainer on the ids of rows, with cached reference log-probabilities."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        pairs: Sequence[Pair],
        *,
        max_length: int,
        references: ReferenceCache | None,
        **kwargs: Any,
    ) -> None:
        self.pairs, self.longest, self.references = pairs, max_length, references
        collate = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id, max_length=max_length)
        ids = [
            {
                "pair": number,
                "prompt_ids": pair.up.prompt_ids,
                "chosen_ids": pair.up.completion_ids,
                "rejected_ids": pair.down.completion_ids,
            }
            for number, pair in enumerate(pairs)
        ]
        super().__init__(
            model=model,
            train_dataset=Dataset.from_list(ids),
            processing_class=tokenizer,
            data_collator=lambda block: {
                **collate(block),
                "pair": torch.tensor([row["pair"] for row in block]),
            },
            **kwargs,
        )
        self.remove_callback(PrinterCallback)
        self.precompute_ref_logps = True  # _compute_loss adds them to the batch

    def _prepare_dataset(self, dataset: Any, *_args: Any) -> Any:
        return dataset  # TRL would tokenise texts itself

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        pairs = [self.pairs[number] for number in inputs.pop("pair").tolist()]
        chosen, rejected = self._reference(pairs, inputs).to(self.accelerator.device).chunk(2)
        inputs = {**inputs, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        return super()._compute_loss(model, inputs, return_outputs)  # type: ignore[no-untyped-call]

    def _reference(self, pairs: Sequence[Pair], inputs: dict[str, Any]) -> torch.Tensor:
        """log π_ref of the liked replies, then of the disliked ones."""
        rows = [*(pair.up for pair in pairs), *(pair.down for pair in pairs)]
        batch = make_batch(rows, max_length=self.longest, mismatched=False)
        known = self.references.look_up(batch) if self.references is not None else None
        if known is None:
            logps = torch.cat(self.compute_ref_log_probs(self.model, inputs))  # type: ignore[no-untyped-call]
            known = Scores(logps.float().cpu(), torch.zeros(len(rows)))
            if self.references is not None:
                self.references.keep(batch, known)
        return known.completions
