"""Training with the weights spread over two processes by FSDP, started as a user starts it."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.support.kto_processes import TORCHRUN
from tests.support.live_server import wait_until
from tests.support.training_env import LONG, TrainingEnv, training_envs
from tests.support.two_blocks import train_doubled
from trainer.dataset.plan import plan_training
from trainer.dataset.tokenise import LeftOut
from trainer.model.base_model import load_model, resolve
from trainer.runs.executors.local import child_environment

# What accelerate launch leaves in the environment for --use_fsdp --fsdp_version 2.
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}


@pytest.fixture
def build(tmp_path: Path, tiny_model: Path) -> Iterator[Callable[..., TrainingEnv]]:
    with training_envs(tmp_path, tiny_model) as build:
        yield build


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, dict[str, Any]]:
    """What was reported, and the adapter, of the same training with whole copies and with shards."""
    found = {}
    for way, environment in (("copies", {}), ("shards", FSDP)):
        folder = tmp_path_factory.mktemp(way)
        subprocess.run(
            [*TORCHRUN, "-m", "tests.support.kto_processes", str(tiny_model), str(folder), "trl"],
            env=os.environ | environment,
            check=True,
        )
        (checkpoint,) = [newest for newest in (folder / "trl").glob("checkpoint-*")][-1:]
        found[way] = {
            **json.loads((folder / "trl.json").read_text()),
            "weights": load_file(folder / "trl.safetensors"),
            "sharded": (checkpoint / "pytorch_model_fsdp_0").is_dir(),
        }
    return found


def test_losses_and_adapter_are_those_of_whole_copies(trained: dict[str, dict[str, Any]]) -> None:
    """Of seven blocks with two disliked rows most have none, so that a process is without."""
    copies, shards = trained["copies"], trained["shards"]
    assert (copies["sharded"], shards["sharded"]) == (False, True), "or nothing was compared"
    assert len(shards["steps"]) == 2 * 4
    for one, other in zip(shards["steps"], copies["steps"], strict=True):
        for measure in ("loss", "gradient_norm", "kl", "margin"):
            expected = other[measure]  # no margin before there was a row of each kind
            near = expected if expected is None else pytest.approx(expected, rel=1e-4, abs=1e-6)
            assert one[measure] == near, measure
    assert any(one["kl"] > 0 for one in shards["steps"])
    assert shards["weights"].keys() == copies["weights"].keys()
    for name, weight in shards["weights"].items():
        torch.testing.assert_close(weight, copies["weights"][name], rtol=0, atol=1e-5)


def test_a_run_that_lost_a_process_goes_on_and_is_published_whole(
    build: Callable[..., TrainingEnv], tmp_path: Path
) -> None:
    env = build(**LONG | {"batch_size": 2, "hold_out_fraction": 1e-9, "lease_seconds": 60, "epochs": 6})
    env.vote(16)
    run_id = env.request()
    command = [*TORCHRUN, "-m", "trainer", "run", run_id]
    environment = child_environment(env.settings) | FSDP
    launcher = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    part = env.hold_second_process(run_id, 16)
    processes = psutil.Process(launcher.pid).children()
    other = next(one for one in processes if one.environ()["RANK"] == "1")
    other.kill()
    launcher.communicate(timeout=60)
    assert not [one for one in processes if one.is_running()]
    wait_until(env.claimable, 60, lambda: env.log(run_id))
    part.unlink()
    part.touch()  # as far as it would have come

    subprocess.run(command, env=environment, check=True, timeout=120)
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
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-4)
