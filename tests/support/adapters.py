"""Adapters without training: random LoRA weights, as large as asked, that change every reply."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from storage.db.database import Database
from storage.db.tables import ModelVersion
from storage.registry import model_versions, training_runs
from storage.registry.artifacts import Artifacts, Published
from tests.support.programs import made_once


def build_adapter(base: Path, folder: Path, *, seed: int = 1, size: float = 0.3) -> Path:
    """Write an adapter for the model in `base` to `folder`, which is made if absent, and return it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        adapted = get_peft_model(
            model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj", "down_proj"])
        )
        with torch.no_grad():
            for name, tensor in adapted.named_parameters():
                if ".lora_B." in name:
                    tensor.normal_(std=size)
    adapted.save_pretrained(folder)
    return folder


def adapted(base: Any, seed: int = 3) -> PeftModel:
    """A model with an adapter that really changes it."""
    torch.manual_seed(seed)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model


def seal_and_publish(artifacts: Artifacts, run_id: str) -> Published:
    """What was staged for a run, as its training publishes it."""
    sealed = artifacts.seal(run_id)
    artifacts.publish(run_id)
    return sealed


def publish_adapter(
    database: Database,
    artifacts: Artifacts,
    base: Path,
    *,
    seed: int = 1,
    state: str = "ready",
    change: Callable[[Path], object] = lambda _: None,
) -> ModelVersion:
    """An adapter as a training run leaves it: its folder published, its version in the database.

    `change` is done to the folder before it is published.
    """
    name = f"adapter-{hashlib.sha256(f'{base} {seed}'.encode()).hexdigest()[:16]}"
    built = made_once(name, lambda folder: build_adapter(base, folder, seed=seed))

    def stage(folder: Path) -> None:
        change(shutil.copytree(built, folder, dirs_exist_ok=True))

    return publish_staged(database, artifacts, str(base), stage, state=state)


def publish_staged(
    database: Database,
    artifacts: Artifacts,
    base: str,
    stage: Callable[[Path], object],
    *,
    state: str = "ready",
) -> ModelVersion:
    """The version of a run of its own, with the files that `stage` writes into an empty folder."""
    with database.write() as session:
        run = training_runs.request_run(session, trigger="api")
        held = training_runs.claim_run(session, run.id, owner="test", lease_seconds=60, max_attempts=1)
        assert held is not None
    stage(artifacts.staging(run.id))
    published = seal_and_publish(artifacts, run.id)
    with database.write() as session:
        version = model_versions.publish_version(
            session, run.id, held.fence, published, base_model=base, metrics={}
        )
        version = model_versions.set_state(session, version.id, state, "Made for a test.")
        training_runs.finish_run(session, run.id, held.fence, state="succeeded", reason="Made for a test.")
    return version
