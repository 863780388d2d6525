"""The order that is written down is the one that is trained in, and stock TRL can be fed with it."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage.settings import Settings
from tests.support.examples import example
from tests.support.rated_files import rated, write_rows
from tests.support.trainings import tiny_settings, train_with_stock_trl
from trainer.dataset import batch_order
from trainer.dataset.tokenise import TokenisedExample
from trainer.engine import kto
from trainer.engine.trl_trainer import Blocks
from trainer.model.base_model import load_model, resolve
from trainer.offline.train_file import OfflineTraining, plan_on_file, train_on_file


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> Settings:
    return tiny_settings(tmp_path / "data", tiny_model, seed=3)


def conversation(number: int) -> dict[str, Any]:
    row = rated(number)
    return {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "completion": [{"role": "assistant", "content": row["completion"]}],
        "label": row["label"],
    }


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_stock_trl_fed_with_it_has_the_losses_of_the_report(settings: Settings, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", map(conversation, range(12)))
    wanted = OfflineTraining(data, tmp_path / "out", settings, None, order=tmp_path / "order.jsonl")
    plan = plan_on_file(wanted)
    assert not (tmp_path / "out").exists()
    records, order = read_lines(data), read_lines(tmp_path / "order.jsonl")
    names = [name for one in order if one["epoch"] == 1 for name in one["records"]]
    (tmp_path / "order.jsonl").unlink()
    report = train_on_file(wanted)
    assert read_lines(tmp_path / "order.jsonl") == order

    model, tokenizer = load_model(resolve(settings))
    texts = [records[int(name.removeprefix("line ")) - 1] for name in names]
    rows = [TokenisedExample(example(**text), [], []) for text in texts]
    args = kto.training_arguments(model, plan.weights, settings, tmp_path / "stock", checkpointing=False)
    steps, _ = train_with_stock_trl(model, tokenizer, rows, args, peft_config=kto.lora_config(settings))
    theirs = [step["loss"] for step in steps]
    assert [step["loss"] for step in report["steps"]] == pytest.approx(theirs, rel=1e-4)
    assert len({round(loss, 6) for loss in theirs}) == 3


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("epochs", [1.0, 1.5, 2.0])
def test_it_has_a_line_for_each_micro_batch_of_every_step(
    settings: Settings, tmp_path: Path, epochs: float, processes: int
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", map(rated, range(10)))
    how = settings.model_copy(
        update={
            **{"epochs": epochs, "batch_size": 3, "gradient_accumulation": 2},
            "training_processes": processes,
        }
    )
    plan = plan_on_file(OfflineTraining(data, None, how, None, order=tmp_path / "order.jsonl"))
    order = read_lines(tmp_path / "order.jsonl")
    assert [one["step"] for one in order] == sorted(one["step"] for one in order)
    assert {one["step"] for one in order} == set(range(1, plan.steps + 1))
    assert {one["epoch"] for one in order} == set(range(1, math.ceil(epochs) + 1))
    first = [name for one in order if one["epoch"] == 1 for name in one["records"]]
    assert set(first) == {f"line {number}" for number in range(1, 11)}
    assert [len(one["records"]) for one in order if one["epoch"] == 1] == [3, 3, 3, 2]
    assert [one["micro_batch"] for one in order if one["epoch"] == 1] == [1, 2, 3, 4]
    by_epoch = [[one["records"] for one in order if one["epoch"] == epoch] for epoch in (1, 2)]
    assert by_epoch[0] != by_epoch[1], "each epoch is shuffled anew"


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_no_process_has_fewer_micro_batches_than_another(processes: int) -> None:
    """One that has none left would wait for ever: the first ones of the epoch come again."""
    rows = [
        TokenisedExample(example(label=n % 2 == 0, chat_id=str(n)), [1] * (n + 1), [2]) for n in range(10)
    ]

    def of_process(rank: int) -> list[list[int]]:
        given = {"per_device_train_batch_size": 2, "seed": 0, "process_index": rank, "world_size": processes}
        return list(Blocks(rows, SimpleNamespace(**given)))  # type: ignore[arg-type]

    blocks = batch_order.blocks(rows, batch_size=2, seed=0)
    assert len(blocks) == 5
    turns = list(zip(*map(of_process, range(processes)), strict=True))
    dealt = [block for turn in turns for block in turn]
    assert dealt[:5] == blocks
    assert dealt[5:] == blocks[: len(dealt) - 5]
    assert len(dealt) < 5 + processes
