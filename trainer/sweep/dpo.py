"""Trains DPO and IPO on pairs of an up and a down reply, for sweeps, with TRL's DPOTrainer on given ids.

A pair is two rows with the same prompt.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from peft import LoraConfig
from transformers import PrinterCallback, set_seed
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from storage.examples.duplicates import digest
from storage.examples.pairs import pair_up
from storage.settings import Settings
from trainer.dataset.batch import Batch
from trainer.dataset.tokenise import TokenisedExample
from trainer.engine.callbacks import CancellationCallback, Progress, ProgressCallback
from trainer.engine.kto import lora_config
from trainer.engine.memory_estimate import checkpoints_activations
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.prefix.scorer import Scores
from trainer.errors import Diverged
from trainer.sweep.grid import Loss

LOSS_TYPES: dict[Loss, str] = {"dpo": "sigmoid", "ipo": "ipo"}  # as TRL names them


@dataclass(frozen=True)
class Pair:
    """A liked and a disliked reply to one prompt, with equal prompt ids."""

    up: TokenisedExample
    down: TokenisedExample


def find_pairs(rows: Sequence[TokenisedExample]) -> list[Pair]:
    """The pairs that an export of these rows would have, in its order (storage.examples.pairs)."""
    by_prompt: dict[bytes, tuple[dict[bytes, TokenisedExample], dict[bytes, TokenisedExample]]]
    by_prompt = defaultdict(lambda: ({}, {}))
    for row in rows:
        by_prompt[digest(row.example.prompt)][row.label].setdefault(digest(row.example.completion), row)
    pairs = [
        Pair(up, down)
        for downs, ups in by_prompt.values()
        for up, down in pair_up(
            [row for text, row in ups.items() if text not in downs],
            [row for text, row in downs.items() if text not in ups],
        )
    ]
    # A chat template may render the end of a prompt differently for each reply; such rows share no prompt.
    return [pair for pair in pairs if pair.up.prompt_ids == pair.down.prompt_ids]


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
    disable_progress_bar()
    rows = [row for pair in pairs for row in (pair.up, pair.down)]
    args = DPOConfig(
        output_dir=str(output_dir),
        beta=settings.beta,
        loss_type=[LOSS_TYPES[loss]],
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=max(1, settings.batch_size // 2),
        gradient_accumulation_steps=settings.gradient_accumulation,
        max_length=None,  # otherwise TRL drops pairs by its own ids; the collator cuts ours
        seed=settings.seed,
        bf16=model.dtype == torch.bfloat16,
        fp16=model.dtype == torch.float16,
        use_cpu=model.device.type == "cpu",
        gradient_checkpointing=checkpoints_activations(model, rows, settings, "trl"),
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,  # the collator needs the pair's number
    )
    cancellation = CancellationCallback(check)
    trainer: Any = _ExactPairs(
        model,
        tokenizer,
        pairs,
        args=args,
        max_length=settings.max_length,
        references=references,
        peft_config=lora_config(settings),
        callbacks=[
            ProgressCallback(
                progress, 2 * args.per_device_train_batch_size * args.gradient_accumulation_steps
            ),
            cancellation,
        ],
    )
    began = time.monotonic()
    trainer.train()
    if cancellation.stopped is not None:
        raise cancellation.stopped
    if not all(bool(p.isfinite().all()) for p in trainer.model.parameters() if p.requires_grad):
        raise Diverged("The adapter has weights that are no finite numbers.")
    return trainer.model, time.monotonic() - began


class _ExactPairs(DPOTrainer):
    """DPOTrainer on the ids of rows, with cached reference log-probabilities."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        pairs: Sequence[Pair],
        *,
        args: DPOConfig,
        max_length: int,
        references: ReferenceCache | None,
        peft_config: LoraConfig,
        callbacks: list[Any],
    ) -> None:
        self.pairs, self.longest, self.references = pairs, max_length, references
        collate = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id, max_length=max_length)

        def collate_ids(block: list[dict[str, Any]]) -> dict[str, Any]:
            numbers = [item["pair"] for item in block]
            ids = [
                {
                    "prompt_ids": pairs[number].up.prompt_ids,
                    "chosen_ids": pairs[number].up.completion_ids,
                    "rejected_ids": pairs[number].down.completion_ids,
                }
                for number in numbers
            ]
            return {**collate(ids), "pair": torch.tensor(numbers)}

        super().__init__(
            model=model,
            args=args,
            train_dataset=Dataset.from_list(
                [
                    {
                        "pair": number,
                        "prompt": pair.up.example.prompt,
                        "chosen": pair.up.example.completion,
                        "rejected": pair.down.example.completion,
                    }
                    for number, pair in enumerate(pairs)
                ]
            ),
            processing_class=tokenizer,
            data_collator=collate_ids,
            peft_config=peft_config,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        self.precompute_ref_logps = True  # _compute_loss adds them to the batch

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        numbers = inputs.pop("pair").tolist()
        known = self._reference([self.pairs[number] for number in numbers], inputs)
        chosen, rejected = known.to(self.accelerator.device).chunk(2)
        given = {**inputs, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        return super()._compute_loss(model, given, return_outputs)  # type: ignore[no-untyped-call]

    def _reference(self, pairs: Sequence[Pair], inputs: dict[str, Any]) -> torch.Tensor:
        """log π_ref of the liked replies, then of the disliked ones."""
        rows = [*(pair.up for pair in pairs), *(pair.down for pair in pairs)]
        batch = Batch.of(rows, max_length=self.longest, mismatched=False)
        known = self.references.look_up(batch) if self.references is not None else None
        if known is None:
            logps = torch.cat(self.compute_ref_log_probs(self.model, inputs))  # type: ignore[no-untyped-call]
            known = Scores(logps.float().cpu(), torch.zeros(len(rows)))
            if self.references is not None:
                self.references.keep(batch, known)
        return known.completions
