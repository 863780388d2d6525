"""A transformers Trainer whose loss is KTO's, with log-probabilities from `shared_prefix`.

Checkpoints, schedulers, callbacks and accumulation are the Trainer's own. Knows no database.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from transformers import PrinterCallback, Trainer, set_seed
from trl.trainer.kto_config import KTOConfig
from trl.trainer.utils import disable_dropout_in_model

from trainer.exact_trainer import Blocks, InOurOrder
from trainer.fast_layers import fast_layers
from trainer.objective import LossType, losses, reference_point
from trainer.reference_cache import ReferenceCache
from trainer.shared_prefix import REFERENCE, PrefixScorer, Reply, Scores
from trainer.tokenise import Row


class SharedPrefixTrainer(InOurOrder, Trainer):
    """KTO on exact ids in the order of `batches`; the same numbers as TRL's trainer, with less work.

    A micro-batch is what z0 is estimated on: each row's mismatched reply is the one before it.
    """

    def __init__(
        self,
        model: Any,
        rows: Sequence[Row],
        *,
        max_length: int,
        args: KTOConfig,
        peft_config: LoraConfig | None,
        recompute: bool,
        references: ReferenceCache | None,
        callbacks: list[Any],
    ) -> None:
        set_seed(args.seed)  # before the adapter is made, as TRL does
        if peft_config is None:
            _keep_start(model)
        else:
            model = get_peft_model(model, peft_config)
        disable_dropout_in_model(model)
        if model.dtype == torch.bfloat16:
            _keep_states_exact(model)
        self.loss_type: LossType = args.loss_type  # type: ignore[assignment]
        self.settings, self.rows, self.max_length = args, rows, max_length
        self.blocks = Blocks(rows, args.per_device_train_batch_size, args.seed)
        self.scorer = PrefixScorer(model, recompute=recompute)
        self.references = references
        self.references_reused = 0
        self.noise_floor: float | None = None
        self._measures: dict[str, list[float]] = {}
        super().__init__(
            model=model,
            args=args,
            train_dataset=range(len(rows)),
            data_collator=lambda block: {"rows": torch.tensor(block)},
            callbacks=callbacks,
        )
        self.model_accepts_loss_kwargs = False  # or accumulation would not divide the loss
        self.remove_callback(PrinterCallback)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with fast_layers(self.scorer.model):
            return super().train(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        assert not return_outputs
        rows = [self.rows[number] for number in inputs["rows"].tolist()]
        replies = self._replies(rows)
        reference = self._reference(replies)
        policy = self.scorer.policy(replies)
        device = policy.completions.device
        log_ratios = policy.completions - reference.completions
        kl = policy.mismatched - reference.mismatched if self.loss_type == "kto" else log_ratios[:0]
        z0 = reference_point(kl)
        desirable = torch.tensor([row.label for row in rows], device=device)
        weights = torch.tensor(
            [
                row.weight
                * (self.settings.desirable_weight if row.label else self.settings.undesirable_weight)
                for row in rows
            ],
            device=device,
        )
        found = losses(
            log_ratios, desirable, weights, z0=z0, beta=self.settings.beta, loss_type=self.loss_type
        )
        if self.state.global_step == 0:
            self.noise_floor = max(self.noise_floor or 0.0, float(log_ratios.detach().abs().max()))
        self._note(self.settings.beta * log_ratios.detach(), desirable, z0)
        return found.mean()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs.update({name: sum(values) / len(values) for name, values in self._measures.items()})
        self._measures.clear()
        super().log(logs, start_time)

    def _replies(self, rows: list[Row]) -> list[Reply]:
        replies = []
        for position, row in enumerate(rows):
            room = self.max_length - len(row.prompt_ids)
            mismatched = rows[position - 1].completion_ids[:room]
            replies.append(
                Reply(
                    row.prompt_ids,
                    row.completion_ids[:room],
                    mismatched if self.loss_type == "kto" else None,
                )
            )
        return replies

    def _reference(self, replies: list[Reply]) -> Scores:
        if self.references is None:
            return self.scorer.reference(replies)
        known = self.references.look_up(replies)
        if known is not None:
            self.references_reused += len(replies)
            device = self.scorer.model.device
            return Scores(known.completions.to(device), known.mismatched.to(device))
        found = self.scorer.reference(replies)
        self.references.keep(replies, found)
        return found

    def _note(self, rewards: torch.Tensor, desirable: torch.Tensor, z0: torch.Tensor) -> None:
        up, down = rewards[desirable], rewards[~desirable]
        measures = {"kl": z0}
        if len(up):
            measures["rewards/chosen"] = up.mean()
        if len(down):
            measures["rewards/rejected"] = down.mean()
        if len(up) and len(down):
            measures["rewards/margins"] = up.mean() - down.mean()
        for name, value in measures.items():
            self._measures.setdefault(name, []).append(value.item())


def _keep_start(model: PeftModel) -> None:
    """Keep the adapter that training starts from as a frozen second one, the reference; TRL does the same."""
    model.add_adapter(REFERENCE, model.peft_config["default"])
    start = get_peft_model_state_dict(model, save_embedding_layers=False)
    set_peft_model_state_dict(model, start, adapter_name=REFERENCE)


def _keep_states_exact(model: Any) -> None:
    """Let what layers add up, and the norms, be in fp32 where the products are in bf16.

    Otherwise each layer rounds the sum to 8 bits, and that alone moves a reply's reward by tenths of a nat.
    """
    for module in model.modules():
        if not isinstance(module, torch.nn.Linear):
            for parameter in module.parameters(recurse=False):
                if parameter.ndim == 1:
                    parameter.data = parameter.data.float()
    model.get_input_embeddings().register_forward_hook(lambda _module, _inputs, found: found.float())
