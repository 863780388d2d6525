"""Two processes that train together, with whole copies or shards (FSDP), train as one does in TRL."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.support import kto_processes
from tests.support.live_server import wait_until
from tests.support.programs import run_together, start_together
from tests.support.training_env import LONG, Build
from tests.support.two_blocks import train_doubled
from trainer.dataset.plan import plan_training
from trainer.dataset.tokenise import LeftOut
from trainer.engine.trl_trainer import newest_checkpoint
from trainer.model.base_model import load_model, load_tokenizer, resolve
from trainer.runs.executors import child_environment

# What accelerate launch leaves in the environment for --use_fsdp --fsdp_version 2.
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """What two processes wrote of each training, with the whole model in each of them."""
    return train_in_two(tmp_path_factory.mktemp("copies"), tiny_model, *kto_processes.TRAININGS)


def train_in_two(folder: Path, model: Path, *names: str, **environment: str) -> Path:
    words = [str(model), str(folder), *names]
    run_together(
        2, kto_processes.__name__, *words, environment=os.environ | environment, output=folder / "run"
    )
    return folder


def steps(folder: Path, name: str) -> list[dict[str, Any]]:
    found = json.loads((folder / f"{name}.json").read_text())
    assert found["engine"] == name.partition(",")[0]
    return list(found["steps"])


def adapter(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.safetensors")


def assert_same_steps(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], *measures: str) -> None:
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        for measure in measures:
            expected = their[measure]
            if expected is not None:  # no margin before there was a row of each kind
                loose = measure in ("kl", "margin")
                expected = pytest.approx(expected, rel=1e-3 if loose else 1e-4, abs=1e-4 if loose else None)
            assert our[measure] == expected, measure


def assert_same_adapter(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-4)


def test_both_engines_agree_where_blocks_are_short_and_come_twice(copies: Path) -> None:
    theirs, ours = steps(copies, "trl"), steps(copies, "shared-prefix")
    assert len(theirs) == 2 * 4, "seven blocks are four turns of two processes"
    assert_same_steps(ours, theirs, "loss", "gradient_norm", "kl", "margin")
    assert any(their["kl"] > 0 for their in theirs)
    assert_same_adapter(adapter(copies, "shared-prefix"), adapter(copies, "trl"))
    assert newest_checkpoint(copies / "shared-prefix") is not None


def test_two_processes_are_one_with_the_doubled_batch(copies: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = kto_processes.settings(str(tiny_model), tmp_path)
    rows = kto_processes.rows(load_tokenizer(resolve(settings)), 12)
    seen, trained = train_doubled(rows, kto_processes.WEIGHTS, settings, tmp_path / "one")
    one = [step | {"gradient_norm": step["grad_norm"]} for step in seen]
    assert len(one) == 6
    assert_same_steps(steps(copies, "shared-prefix, whole"), one, "loss", "gradient_norm", "kl")
    assert_same_adapter(adapter(copies, "shared-prefix, whole"), trained)


def test_shards_train_as_whole_copies_do(copies: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Of seven blocks with two disliked rows most have none, so that a process is without."""
    shards = train_in_two(tmp_path, tiny_model, "trl", **FSDP)
    assert next((shards / "trl").glob("checkpoint-*/pytorch_model_fsdp_0")).is_dir(), "or nothing was sharded"
    assert_same_steps(steps(shards, "trl"), steps(copies, "trl"), "loss", "gradient_norm", "kl", "margin")
    assert_same_adapter(adapter(shards, "trl"), adapter(copies, "trl"))


def test_a_sharded_run_that_lost_a_process_goes_on_and_is_published_whole(
    build: Build, tmp_path: Path
) -> None:
    env = build(**LONG | {"batch_size": 2, "hold_out_fraction": 1e-9, "lease_seconds": 60, "epochs": 6})
    env.vote(16)
    run_id = env.request()
    words = ("trainer", "run", run_id)
    where = {"environment": child_environment(env.settings) | FSDP, "output": tmp_path / "run"}
    first, second = start_together(2, *words, **where)
    part = env.hold_second_process(run_id, 16)
    second.kill()
    first.terminate()  # as torchrun does
    first.wait(timeout=60)
    wait_until(env.claimable, 60, lambda: env.log(run_id))
    part.unlink()
    part.touch()  # as far as it would have come

    run_together(2, *words, **where)
    run = env.run(run_id)
    assert run.state == "succeeded", env.log(run_id)
    result = run.metrics["training"]
    assert (result["engine"], result["processes"], result["steps"]) == ("trl", 2, 18)
    assert result["resumed_from_step"] == 14
    assert "Training with stock TRL instead of the engine shared-prefix: with FSDP" in env.log(run_id)

    rows = env.rows_of(run_id)
    weights = plan_training(rows, LeftOut(), env.settings).weights
    steps, expected = train_doubled(rows, weights, env.settings, tmp_path / "one")
    assert result["last_loss"] == pytest.approx(steps[-1]["loss"], rel=1e-4)
    adapter = env.artifacts.folder(env.version("v2").path or "")
    loaded = PeftModel.from_pretrained(load_model(resolve(env.settings))[0], str(adapter))
    found = {name: weight for name, weight in loaded.named_parameters() if "lora_" in name}
    assert_same_adapter(found, expected)
