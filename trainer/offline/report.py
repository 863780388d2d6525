"""Builds the JSON report of a training on a file: settings, each step, time and memory."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainer.dataset.plan import TrainingPlan
from trainer.engine.kto import TrainingResult
from trainer.engine.trl_trainer import newest_checkpoint
from trainer.model.base_model import BaseModelSource


@dataclass
class FileReport:
    """Collects the steps, including those that an interrupted training had already made."""

    steps: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def continued(cls, checkpoints: Path) -> "FileReport":
        """The report of a training that resumes from its newest checkpoint; empty if there is none."""
        newest = newest_checkpoint(checkpoints)
        if newest is None:
            return cls()
        history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
        return cls([_step(entry, "grad_norm") for entry in history if "loss" in entry])

    def note(self, state: dict[str, Any]) -> None:
        """Add a step from reported progress."""
        self.steps.append(_step(state, "gradient_norm"))

    def to_dict(
        self,
        result: TrainingResult,
        plan: TrainingPlan,
        source: BaseModelSource,
        *,
        settings: dict[str, Any],
        set_up: float,
        expected: float,
    ) -> dict[str, Any]:
        """The report. `set_up` and `expected` are in seconds; `settings` are those the adapter depends on."""
        return {
            "engine": result.engine,
            "processes": result.processes,
            "model": source.name,
            "device": _device(source),
            "precision": settings["precision"],
            "rows": plan.rows,
            "tokens": plan.tokens,
            "seconds": {"set_up": set_up, "training": result.seconds, "expected": expected},
            "seconds_per_row": result.seconds_per_row,
            "peak_memory_mb": result.peak_memory / 2**20,
            "steps": self.steps,
            "resumed_from_step": result.resumed_from_step,
            "gradient_checkpointing": result.gradient_checkpointing,
            "noise_floor": result.noise_floor,
            "references_reused": result.references_reused,
            "settings": settings,
            **plan.to_metrics(),
        }


def _step(logged: dict[str, Any], norm: str) -> dict[str, Any]:
    return {
        "step": logged["step"],
        "loss": logged["loss"],
        "grad_norm": logged.get(norm),
        "z0": logged.get("kl"),
    }


def _device(source: BaseModelSource) -> str:
    return torch.cuda.get_device_name(source.device) if source.device.type == "cuda" else source.device.type
