"""Trains an adapter, or every weight of a model, with KTO on tokenised rows, using either engine.

The reference is the base model for a fresh adapter, and a frozen copy for an adapter that is continued.
Checkpoints resume exactly, and training stops as soon as a gradient is not finite. Knows no database.
"""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import LoraConfig, PeftModel
from trl.trainer.kto_config import KTOConfig

from storage.examples.weights import Weights
from storage.settings import Settings, frozen_settings
from trainer.dataset.tokenise import TokenisedExample
from trainer.engine.callbacks import CancellationCallback, Finished, Progress, ProgressCallback, reporters
from trainer.engine.estimates import checkpoints_activations, peak_memory
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.shared_prefix_trainer import SharedPrefixTrainer
from trainer.engine.trl_trainer import ExactTrainer, newest_checkpoint, step_of
from trainer.errors import Diverged
from trainer.model.base_model import number_format
from trainer.model.fsdp import all_finite, gather_trained, sharded_by

log = logging.getLogger(__name__)

# Settings that determine the trained adapter, given the same rows.
SETTINGS = frozen_settings("adapter")


@dataclass(frozen=True)
class TrainingResult:
    """What a training did and used.

    `mean_loss` is over all steps. `seconds` is of this process. `peak_memory` is in bytes, summed over the
    processes. `noise_floor` is the largest |r| in nats while policy and reference were still the same model,
    so it is rounding alone. `references_reused` counts rows whose reference an earlier training had cached,
    each once. Both are None for `trl`.
    """

    engine: str
    processes: int
    rows: int
    steps: int
    resumed_from_step: int
    mean_loss: float
    last_loss: float
    seconds: float
    seconds_per_row: float
    peak_memory: int
    gradient_checkpointing: bool
    noise_floor: float | None
    references_reused: int | None


def train(
    model: Any,
    tokenizer: Any,
    rows: Sequence[TokenisedExample],
    *,
    weights: Weights,
    settings: Settings,
    output_dir: Path,
    resume: bool = False,
    references: ReferenceCache | None = None,
    progress: Progress = lambda _state: None,
    check: Callable[[], None] = lambda: None,
) -> tuple[Any, TrainingResult]:
    """Train a new LoRA adapter on `model`; returns the PEFT model and what happened.

    If `model` is a PEFT model, its own adapter is continued, and a frozen copy of it is the reference, as in
    TRL. With `tuning` full the model itself is trained, with references computed before the first step.
    Checkpoints go to `output_dir`. With `resume`, training continues from the newest complete one, which must
    come from the same rows and settings. The engine is the one in the settings (`select.settle_engine`).
    `references` is read and extended.

    `check` is called at the end of each step and may raise Interrupted; for a terminated run that step is
    saved. With several processes, each is called with the same arguments and trains on its share of the
    micro-batches; the first one reports and writes. Raises Diverged and OutOfMemory.
    """
    with PartialState(cpu=model.device.type == "cpu").main_process_first():
        checkpoint = newest_checkpoint(output_dir) if resume else None
        if checkpoint is None:
            shutil.rmtree(output_dir, ignore_errors=True)
    processes = PartialState().num_processes
    rows_per_step = settings.batch_size * settings.gradient_accumulation * processes
    engine = settings.engine
    checkpointing = checkpoints_activations(model, rows, settings, engine)
    cancellation = CancellationCallback(check)
    shared: dict[str, Any] = {
        "max_length": settings.max_length,
        "peft_config": (
            None if isinstance(model, PeftModel) or settings.tuning == "full" else lora_config(settings)
        ),
        "callbacks": [ProgressCallback(progress, rows_per_step), cancellation],
    }
    trainer: Any
    if engine == "trl":
        if settings.nll_weight:
            log.info("The engine trl is stock KTO: THUMBLOOP_NLL_WEIGHT=%g is not used.", settings.nll_weight)
        args = training_arguments(model, weights, settings, output_dir, checkpointing)
        trainer = ExactTrainer(model, tokenizer, rows, args=args, **shared)
    else:
        args = training_arguments(model, weights, settings, output_dir, checkpointing=False)
        trainer = SharedPrefixTrainer(
            model,
            rows,
            args=args,
            recompute=checkpointing,
            references=references,
            nll_weight=settings.nll_weight,
            **shared,
        )
    for reporter in reporters(settings.report_to, output_dir.parent):
        trainer.add_callback(reporter)
    seconds = run_trainer(trainer, cancellation, checkpoint)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    resumed_from = step_of(checkpoint) if checkpoint else 0
    # Gathering also waits until every process has finished with its files.
    seen = (getattr(trainer, name, None) for name in ("noise_floor", "references_reused", "recomputes"))
    peaks, floors, reused, recomputed = zip(*gather_object([(peak_memory(), *seen)]), strict=True)
    rows_trained = len(rows) * settings.epochs * (1 - resumed_from / trainer.state.global_step)
    return trainer.model, TrainingResult(
        engine=engine,
        processes=processes,
        rows=len(rows),
        steps=trainer.state.global_step,
        resumed_from_step=resumed_from,
        mean_loss=sum(losses) / len(losses),
        last_loss=losses[-1],
        seconds=seconds,
        seconds_per_row=seconds / max(rows_trained, 1),
        peak_memory=sum(peaks),
        gradient_checkpointing=checkpointing or any(recomputed),
        noise_floor=None if None in floors else max(floors),
        references_reused=None if None in reused else sum(reused),
    )


def run_trainer(trainer: Any, cancellation: CancellationCallback, checkpoint: Path | None = None) -> float:
    """Train, from the checkpoint if there is one; returns the seconds. Raises Interrupted and Diverged."""
    began = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Finished:
        log.info("The checkpoint is that of the last step.")
    if cancellation.stopped is not None:
        raise cancellation.stopped
    if not all_finite(p for p in trainer.model.parameters() if p.requires_grad):
        raise Diverged("The trained weights are not all finite numbers.")
    if sharded_by():
        gather_trained(trainer.model)
    return time.monotonic() - began


def save_adapter(model: Any, folder: Path, *, base_model: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors, with the base model's name, not its folder.

    A fully fine-tuned model is written as a complete model.
    """
    if not isinstance(model, PeftModel):
        model.save_pretrained(folder)
        return
    config: Any = model.peft_config["default"]
    config.base_model_name_or_path = base_model
    config.target_modules = sorted(config.target_modules)  # a set, whose order would change the hash
    model.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)


def training_arguments(
    model: Any, weights: Weights, settings: Settings, output_dir: Path, checkpointing: bool
) -> KTOConfig:
    return KTOConfig(
        **common_arguments(model, settings, output_dir, checkpointing),
        loss_type=settings.loss_type,
        desirable_weight=weights.desirable,
        undesirable_weight=weights.undesirable,
    )


def common_arguments(model: Any, settings: Settings, output_dir: Path, checkpointing: bool) -> dict[str, Any]:
    """The arguments that TRL's configurations of KTO and DPO share."""
    full = settings.tuning == "full"  # full tuning keeps weights in fp32, whatever the products are in
    compute = number_format(settings.precision, model.device) if full else model.dtype
    return {
        "output_dir": str(output_dir),
        "beta": settings.beta,
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "max_length": None,  # otherwise TRL drops rows by its own ids; the collator cuts ours
        "seed": settings.seed,
        "bf16": compute == torch.bfloat16,
        "fp16": compute == torch.float16,
        "use_cpu": model.device.type == "cpu",
        "gradient_checkpointing": checkpointing,
        "save_strategy": "steps" if settings.checkpoint_steps else "no",
        "save_steps": settings.checkpoint_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,  # the collator needs the row's number
    }


def lora_config(settings: Settings) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
    )
