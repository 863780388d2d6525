"""TRL's KTOTrainer on given token ids in a given order, with crash-safe checkpoints.

`InOurOrder` is shared by both engines: the order of micro-batches, and complete checkpoints.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils.constants import FSDP_MODEL_NAME
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer

from trainer.dataset import batch_order
from trainer.dataset.batch import make_batch
from trainer.dataset.tokenise import TokenisedExample
from trainer.model.fsdp import shard_on_processor, sharded_by


class InOurOrder:
    """Mixin for a transformers Trainer: it trains on the micro-batches of `blocks`, in their order."""

    blocks: "Blocks"

    def get_train_dataloader(self: Any) -> Any:
        loader = DataLoader(self.train_dataset, batch_sampler=self.blocks, collate_fn=self.data_collator)
        # The blocks are already this process's own. accelerate would fill a short block with other rows.
        return prepare_data_loader(
            loader, device=self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    def _save_rng_state(self: Any, output_dir: str) -> None:
        """Wait for all processes: this is the last file each writes, and the state file vouches for them."""
        super()._save_rng_state(output_dir)  # type: ignore[misc]
        self.accelerator.wait_for_everyone()


class ExactTrainer(InOurOrder, KTOTrainer):
    """KTOTrainer on given ids and in a given order.

    Each row's loss is multiplied by the row's own weight, then averaged over the micro-batch as usual. TRL
    would render the conversations itself and train in their order. Here the collator has the ids, and the
    data loader takes the order from `batch_order.blocks`, anew for each epoch.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        rows: Sequence[TokenisedExample],
        *,
        max_length: int,
        args: KTOConfig,
        **kwargs: Any,
    ) -> None:
        self.blocks = Blocks(rows, args)
        collate = DataCollatorForUnpairedPreference(pad_token_id=tokenizer.pad_token_id)

        def collate_ids(block: list[dict[str, Any]]) -> dict[str, Any]:
            """The rows' own ids. For the KL term each prompt also gets the reply before it in the block."""
            chosen = [rows[item["row"]] for item in block]
            collated: dict[str, Any] = collate(
                [
                    {
                        "prompt_ids": prompt,
                        "completion_ids": completion,
                        "KL_completion_ids": mismatched,
                        "label": row.label,
                    }
                    for row, (prompt, completion, mismatched) in zip(
                        chosen, make_batch(chosen, max_length=max_length), strict=True
                    )
                ]
            )
            return collated | {"weight": torch.tensor([row.weight for row in chosen])}

        super().__init__(
            model=model,
            args=args,
            train_dataset=Dataset.from_dict({"row": range(len(rows)), "label": [row.label for row in rows]}),
            processing_class=tokenizer,
            data_collator=collate_ids,
            **kwargs,
        )
        self.remove_callback(PrinterCallback)

    def _prepare_dataset(self, dataset: Any, *_args: Any) -> Any:
        return dataset  # TRL would tokenise texts itself

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if sharded_by() and not self.is_fsdp_enabled:
            shard_on_processor(self.accelerator)
            self.is_fsdp_enabled = True

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        # TRL multiplies the losses of each class, in row order, by the weight of that class. Replacing that
        # weight with a tensor gives each row its own.
        weights, labels = inputs.pop("weight"), torch.as_tensor(inputs["label"], dtype=torch.bool)
        of_classes = self.desirable_weight, self.undesirable_weight
        device = self.accelerator.device
        self.desirable_weight = of_classes[0] * weights[labels].to(device)
        self.undesirable_weight = of_classes[1] * weights[~labels].to(device)
        try:
            return super()._compute_loss(model, inputs, return_outputs)  # type: ignore[no-untyped-call]
        finally:
            self.desirable_weight, self.undesirable_weight = of_classes


class Blocks(Sampler[list[int]]):
    """This process's micro-batches of one epoch, as lists of row numbers.

    With several processes, each takes the next block in turn. If the last turn has too few blocks, blocks
    from the start of the epoch are repeated.
    """

    # There is no `batch_size` attribute on purpose: without one, accelerate drops nothing of what it gathers
    # in the last step.

    def __init__(self, rows: Sequence[TokenisedExample], args: KTOConfig) -> None:
        self.rows, self.size, self.seed = rows, args.per_device_train_batch_size, args.seed
        self.rank, self.processes = args.process_index, args.world_size
        self.drop_last = False
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        blocks = batch_order.blocks(self.rows, batch_size=self.size, seed=self.seed, epoch=epoch)
        turns = -(-len(blocks) // self.processes)
        of_all = islice(cycle(blocks), turns * self.processes)
        self.own = list(islice(of_all, self.rank, None, self.processes))

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.own


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The newest complete checkpoint that this training can resume from, or None.

    The state file is written last, after the files of all processes, so it marks a complete checkpoint.
    Checkpoints of sharded weights have their own format, and only a sharded training can resume from them.
    """
    for folder in sorted(output_dir.glob("checkpoint-*"), key=step_of, reverse=True):
        try:
            json.loads((folder / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        if any(folder.glob(f"{FSDP_MODEL_NAME}*")) == (sharded_by() is not None):
            return folder
    return None


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))
