"""Two processes that train together: z0 is that of all, and the gradient the mean of theirs, as in TRL."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support import kto_processes
from tests.support.two_blocks import train_doubled
from trainer.engine.trl_trainer import newest_checkpoint
from trainer.model.base_model import load_tokenizer, resolve


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [str(tiny_model), str(folder), *kto_processes.TRAININGS]
    subprocess.run([*launcher, "-m", "tests.support.kto_processes", *arguments], check=True)
    return folder


def steps(folder: Path, name: str) -> list[dict[str, Any]]:
    found = json.loads((folder / f"{name}.json").read_text())
    assert found["engine"] == name.partition(",")[0]
    return list(found["steps"])


def same_adapter(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for mine, other in zip(ours.values(), theirs.values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)


def test_both_engines_agree_where_blocks_are_short_and_come_twice(folder: Path) -> None:
    theirs, ours = steps(folder, "trl"), steps(folder, "shared-prefix")
    assert len(theirs) == 2 * 4, "seven blocks are four turns of two processes"
    for their, our in zip(theirs, ours, strict=True):
        for measure in ("loss", "gradient_norm"):
            assert our[measure] == pytest.approx(their[measure], rel=1e-4)
        assert our["kl"] == pytest.approx(their["kl"], rel=1e-3, abs=1e-4)
        if their["margin"] is None:  # no row yet of one of the two kinds
            assert our["margin"] is None
        else:
            assert our["margin"] == pytest.approx(their["margin"], rel=1e-3, abs=1e-4)
    assert any(their["kl"] > 0 for their in theirs)
    same_adapter(load_file(folder / "shared-prefix.safetensors"), load_file(folder / "trl.safetensors"))
    assert newest_checkpoint(folder / "shared-prefix") is not None


def test_two_processes_are_one_with_the_doubled_batch(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = kto_processes.settings(str(tiny_model), tmp_path)
    rows = kto_processes.rows(load_tokenizer(resolve(settings)), 12)
    seen, trained = train_doubled(rows, kto_processes.WEIGHTS, settings, tmp_path / "one")

    two = steps(folder, "shared-prefix, whole")
    assert len(two) == len(seen) == 6
    for ours, theirs in zip(two, seen, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["gradient_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
        assert ours["kl"] == pytest.approx(theirs["kl"], rel=1e-3, abs=1e-4)
    ours_trained = load_file(folder / "shared-prefix, whole.safetensors")
    same_adapter({name: ours_trained[name] for name in trained}, trained)
