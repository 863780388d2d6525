"""Two processes that train together: z0 is that of all, and the gradient the mean of theirs, as in TRL."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from tests import kto_processes
from trainer import batches, kto
from trainer.base_model import load_model, resolve
from trainer.exact_trainer import ExactTrainer, newest_checkpoint
from trainer.tokenise import Row


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launcher, "-m", "tests.kto_processes", str(tiny_model), str(folder)], check=True)
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


class _TwoBlocks:
    """Stock TRL's batch of two blocks whose mismatched pairs stay within each."""

    def __init__(self, rows: list[Row], tokenizer: Any) -> None:
        self.rows, self.collate = rows, DataCollatorForUnpairedPreference(pad_token_id=tokenizer.pad_token_id)

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [self.rows[item["row"]] for item in items]
        features = [
            {
                "prompt_ids": row.prompt_ids,
                "completion_ids": row.completion_ids,
                "KL_completion_ids": rows[position ^ 1].completion_ids,  # the other one of its two
                "label": row.label,
            }
            for position, row in enumerate(rows)
        ]
        return self.collate(features) | {"weight": torch.ones(len(rows))}


def test_two_processes_are_one_with_the_doubled_batch(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = kto_processes.settings(str(tiny_model), tmp_path)
    base, tokenizer = load_model(resolve(settings))
    rows = kto_processes.rows(tokenizer, 12)
    seen: list[dict[str, float]] = []

    class Steps(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if "loss" in kwargs["logs"]:
                seen.append(dict(kwargs["logs"]))

    doubled = settings.model_copy(update={"batch_size": 4})
    args = kto.training_arguments(base, kto_processes.WEIGHTS, doubled, tmp_path / "one", False)
    one: Any = ExactTrainer(
        *(base, tokenizer, rows),
        max_length=settings.max_length,
        args=args,
        peft_config=kto.lora_config(settings),
        callbacks=[Steps()],
    )
    one.data_collator = _TwoBlocks(rows, tokenizer)
    epochs = [batches.order(rows, batch_size=2, seed=settings.seed, epoch=epoch) for epoch in (0, 1)]
    one.blocks.set_epoch = lambda epoch: setattr(
        one.blocks, "own", [epochs[epoch][start : start + 4] for start in range(0, 12, 4)]
    )
    one.train()

    two = steps(folder, "shared-prefix, whole")
    assert len(two) == len(seen) == 6
    for ours, theirs in zip(two, seen, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["gradient_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
        assert ours["kl"] == pytest.approx(theirs["kl"], rel=1e-3, abs=1e-4)
    trained = {name: p.detach() for name, p in one.model.named_parameters() if p.requires_grad}
    ours_trained = load_file(folder / "shared-prefix, whole.safetensors")
    same_adapter({name: ours_trained[name] for name in trained}, trained)
