"""A transformers Trainer with KTO's loss on log-probabilities from `engine/prefix`.

Checkpoints, schedulers, callbacks and accumulation are the Trainer's own. Knows no database.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from transformers import PrinterCallback, Trainer, set_seed
from trl.trainer.kto_config import KTOConfig

from storage.examples.weights import Weights
from trainer.dataset.batch import Batch, make_batch
from trainer.dataset.tokenise import TokenisedExample
from trainer.engine.estimates import is_out_of_memory
from trainer.engine.fast.layers import fast_layers
from trainer.engine.prefix.objective import LossType, liked_nll, losses, reference_point
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.prefix.scorer import REFERENCE, PrefixScorer, Scores, keep_states_exact
from trainer.engine.trl_trainer import Blocks, InOurOrder
from trainer.errors import OutOfMemory

log = logging.getLogger(__name__)


class SharedPrefixTrainer(InOurOrder, Trainer):
    """KTO on exact ids in the order of `batch_order`: the same numbers as TRL's trainer, with less work.

    z0 is estimated on each micro-batch: each row's mismatched reply is the one before it.
    """

    def __init__(
        self,
        model: Any,
        rows: Sequence[TokenisedExample],
        *,
        max_length: int,
        args: KTOConfig,
        peft_config: LoraConfig | None,
        recompute: bool,
        references: ReferenceCache | None,
        nll_weight: float = 0.0,
        callbacks: list[Any],
    ) -> None:
        set_seed(args.seed)  # before the adapter is created, as in TRL
        if peft_config is None and isinstance(model, PeftModel):
            _keep_start(model)
        elif peft_config is not None:
            model = get_peft_model(model, peft_config)
        keep_states_exact(model)
        self.loss_type: LossType = args.loss_type  # type: ignore[assignment]
        self.settings, self.rows, self.max_length = args, rows, max_length
        self.nll_weight = nll_weight
        self.blocks = Blocks(rows, args)
        compute = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        self.scorer = PrefixScorer(model, recompute=recompute, compute=compute)
        self._of_base: dict[tuple[int, ...], Scores] | None = None if isinstance(model, PeftModel) else {}
        self.references = references
        self.references_reused = 0
        self._floor: float | None = None
        self._measures: dict[str, list[float]] = {}
        self._z0: Tensor | None = None
        self._rewards = self._labels = torch.empty(0)
        super().__init__(
            model=model,
            args=args,
            train_dataset=range(len(rows)),
            data_collator=lambda block: {"rows": torch.tensor(block)},
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with fast_layers(self.scorer.model):
            if self._of_base is not None:
                self._precompute(self._of_base)
            return super().train(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        assert not return_outputs
        rows = [self.rows[number] for number in inputs["rows"].tolist()]
        batch = self._batch(rows)
        known = self._of_base[tuple(inputs["rows"].tolist())] if self._of_base is not None else None
        reference = known or self._reference(batch, self.scorer.reference)
        policy = self.scorer.policy(batch)
        device = policy.completions.device
        log_ratios = policy.completions - reference.completions
        if self._z0 is None:  # a collective: a retried micro-batch must not repeat it
            self._z0 = self._reference_point(policy.mismatched - reference.mismatched)
        desirable = torch.tensor([row.label for row in rows], device=device)
        of_class = Weights(self.settings.desirable_weight, self.settings.undesirable_weight)
        weights = torch.tensor([row.weight * of_class.of(row.label) for row in rows], device=device)
        found = losses(
            log_ratios, desirable, weights, z0=self._z0, beta=self.settings.beta, loss_type=self.loss_type
        )
        if self.nll_weight:
            lengths = torch.tensor([len(item.completion or ()) for item in batch], device=device)
            found = found + self.nll_weight * liked_nll(policy.completions, lengths, desirable, weights)
        self._rewards, self._labels = self.settings.beta * log_ratios.detach(), desirable
        return found.mean()

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Train on one micro-batch; on running out of memory, retry in smaller passes. Raises OutOfMemory."""
        self._z0 = None
        drain = torch.zeros((), requires_grad=True) * 1
        kept = [(p, None if p.grad is None else p.grad.clone()) for p in self._trained()]
        while True:
            try:
                loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                smaller = self.scorer.halve()
                if smaller is None:
                    raise OutOfMemory(self.settings.per_device_train_batch_size, self.max_length) from error
            # Outside the except block only autograd's queue still holds the failed pass. It keeps the nodes
            # it has not run until the next backward pass; `drain` is older than all of them, so it runs last
            # and clears them.
            drain.backward(retain_graph=True)  # type: ignore[no-untyped-call]
            log.warning("Out of memory in step %d; %s.", self.state.global_step + 1, smaller)
            for parameter, gradient in kept:
                parameter.grad = None if gradient is None else gradient.clone()
            clear_device_cache(garbage_collection=True)
        if self.accelerator.sync_gradients:
            self._average_gradients()
        self._note()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs.update({name: sum(values) / len(values) for name, values in self._measures.items()})
        self._measures.clear()
        if self._floor is not None:  # the log history is saved in checkpoints, so it survives this process
            logs["noise_floor"], self._floor = self._floor, None
        super().log(logs, start_time)

    @property
    def recomputes(self) -> bool:
        """Whether the backward pass recomputes activations, by choice or since memory ran out."""
        return self.scorer.recompute

    @property
    def noise_floor(self) -> float | None:
        """The largest |r| in nats while policy and reference were still the same model."""
        return next((line["noise_floor"] for line in self.state.log_history if "noise_floor" in line), None)

    def _batch(self, rows: Sequence[TokenisedExample]) -> Batch:
        return make_batch(rows, max_length=self.max_length, mismatched=self.loss_type == "kto")

    def _precompute(self, kept: dict[tuple[int, ...], Scores]) -> None:
        """Compute the reference of every micro-batch, while the model still is its own reference."""
        for epoch in range(math.ceil(self.settings.num_train_epochs)):
            self.blocks.set_epoch(epoch)
            for block in self.blocks:
                with torch.no_grad():
                    batch = self._batch([self.rows[number] for number in block])
                    kept[tuple(block)] = self._reference(batch, self.scorer.policy)

    def _reference(self, batch: Batch, score: Callable[[Batch], Scores]) -> Scores:
        if self.references is None:
            return score(batch)
        found, known = self.references.complete(batch, score)
        self.references_reused += known
        device = self.scorer.model.device
        return Scores(found.completions.to(device), found.mismatched.to(device))

    def _reference_point(self, mismatched: Tensor) -> Tensor:
        """z0 over all processes. As in TRL, the mean of their means."""
        if self.loss_type != "kto":
            return mismatched.new_zeros(())
        return reference_point(self.accelerator.gather(mismatched.detach().mean()[None]))

    def _trained(self) -> list[torch.nn.Parameter]:
        return [p for p in self.scorer.model.parameters() if p.requires_grad]

    def _average_gradients(self) -> None:
        """Average the gradients over the processes. DDP cannot: the passes bypass its wrapper."""
        if self.args.world_size == 1:
            return
        for parameter in self._trained():
            if parameter.grad is None:  # an expert used by tokens of other processes only
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self._trained() if p.grad is not None]
        together = self.accelerator.reduce(parameters_to_vector(gradients), reduction="mean")
        vector_to_parameters(together, gradients)

    def _note(self) -> None:
        if self.state.global_step == 0:
            found = float((self._rewards / self.settings.beta).abs().max())
            self._floor = max(self._floor or 0.0, found)
        sides = self._labels, ~self._labels
        sums = torch.stack([total for side in sides for total in (self._rewards[side].sum(), side.sum())])
        up, ups, down, downs = self.accelerator.reduce(sums, reduction="sum").tolist()
        assert self._z0 is not None
        measures = {"kl": self._z0.item()}
        if ups:
            measures["rewards/chosen"] = up / ups
        if downs:
            measures["rewards/rejected"] = down / downs
        if ups and downs:
            measures["rewards/margins"] = up / ups - down / downs
        for name, value in measures.items():
            self._measures.setdefault(name, []).append(value)


def _keep_start(model: PeftModel) -> None:
    """Keep a frozen copy of the initial adapter as the reference, as in TRL."""
    model.add_adapter(REFERENCE, model.peft_config["default"])
    start = get_peft_model_state_dict(model, save_embedding_layers=False)
    set_peft_model_state_dict(model, start, adapter_name=REFERENCE)
