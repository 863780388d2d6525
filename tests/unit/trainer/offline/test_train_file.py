"""The engine alone on a file: an adapter that plain PEFT loads, a report, and stops that lose nothing."""

import json
import math
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from storage.errors import Conflict, NotReady
from storage.settings import Settings
from tests.support.rated_files import rated, write_rows
from tests.support.trainings import tiny_settings
from trainer.adapters.lineage import model_card
from trainer.errors import Diverged, Interrupted
from trainer.offline.train_file import OfflineTraining, train_on_file

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> Settings:
    return tiny_settings(tmp_path / "data", tiny_model, checkpoint_steps=2)


@pytest.fixture
def train(tmp_path: Path, settings: Settings) -> Train:
    """Trains on ten rows into tmp_path/out; settings and arguments may be given."""
    data = write_rows(tmp_path / "rows.jsonl", map(rated, range(10)))

    def train(
        out: str = "out", *, references: Path | None = None, data: Path = data, **given: Any
    ) -> dict[str, Any]:
        report = given.pop("report", None)
        hooks = {name: given.pop(name) for name in ("progress", "check") if name in given}
        chosen = settings.model_copy(update=given)
        wanted = OfflineTraining(data, tmp_path / out, chosen, references, report=report)
        return train_on_file(wanted, **hooks)

    return train


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


ADAPTER = ["README.md", "adapter_config.json", "adapter_model.safetensors", "lineage.json"]


def test_the_adapter_loads_with_plain_peft_and_changes_the_model(
    train: Train, tmp_path: Path, tiny_model: Path
) -> None:
    train(epochs=3.0)
    assert files(tmp_path / "out") == ADAPTER
    ids = torch.arange(40)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        before = base(ids).logits
        after = PeftModel.from_pretrained(base, tmp_path / "out")(ids).logits
    assert (after - before).abs().max() > 1e-3


def test_a_model_of_which_every_weight_is_trained_loads_by_itself(
    train: Train, tmp_path: Path, tiny_model: Path
) -> None:
    train(epochs=3.0, tuning="full")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)(ids).logits
        after = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(ids).logits
    assert (after - before).abs().max() > 1e-3
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "Every weight of" in card
    assert "peft" not in card
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


def test_the_folder_says_what_it_was_trained_on_and_quotes_nothing(train: Train, tmp_path: Path) -> None:
    train()
    lineage = json.loads((tmp_path / "out" / "lineage.json").read_text())
    assert lineage["data"]["file"] == "rows.jsonl"
    assert lineage["records"] == [f"line {number}" for number in range(1, 11)]
    assert lineage["trained_on"] == {"up": 6, "down": 4}
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("6 desirable", "4 undesirable", "β 0.1", "rank 4", "0.01", "3 steps", "rows.jsonl"):
        assert words in card
    assert "PeftModel.from_pretrained" in card
    assert str(tmp_path) not in card.replace(str(lineage["base_model"]), "")
    assert "plus" not in card + json.dumps(lineage)


def test_the_report_is_of_every_step_and_both_engines_agree(train: Train) -> None:
    ours = train(epochs=2.0)
    theirs = train("stock", epochs=2.0, engine="trl")
    assert (ours["engine"], theirs["engine"]) == ("shared-prefix", "trl")
    assert [step["step"] for step in ours["steps"]] == list(range(1, ours["plan"]["steps"] + 1))
    assert ours["plan"]["steps"] == 6
    for one, other in zip(ours["steps"], theirs["steps"], strict=True):
        for name in ("loss", "grad_norm", "z0"):
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5)
    assert (ours["rows"], ours["device"], ours["precision"]) == (10, "cpu", "fp32")
    assert ours["weights"]["undesirable"] > ours["weights"]["desirable"]
    figures = [*ours["seconds"].values(), ours["seconds_per_row"], ours["peak_memory_mb"], ours["tokens"]]
    assert all(math.isfinite(figure) and figure > 0 for figure in figures)
    assert json.loads(json.dumps(ours)) == ours
    odd = train("odd", epochs=1.5, batch_size=3, gradient_accumulation=2)
    assert len(odd["steps"]) == odd["plan"]["steps"] == 3


@pytest.mark.parametrize("how", [{"learning_rate": 1e6}, {"beta": 1e7}])
@pytest.mark.parametrize("engine", ["shared-prefix", "trl"])
def test_a_training_that_explodes_ends_and_says_so(
    train: Train, tmp_path: Path, how: dict[str, Any], engine: str
) -> None:
    with pytest.raises(Diverged, match="gradient exploded: its norm in step"):
        train(engine=engine, epochs=3.0, **how)
    assert not (tmp_path / "out" / "lineage.json").exists()


def test_references_of_an_earlier_training_are_used(train: Train, tmp_path: Path) -> None:
    assert train("cold", references=tmp_path)["references_reused"] == 0
    assert train("warm", references=tmp_path)["references_reused"] == 10
    assert train("none")["references_reused"] == 0
    assert train("another order", references=tmp_path, seed=5)["references_reused"] == 10
    assert train("full", references=tmp_path, tuning="full")["references_reused"] == 0  # other numbers


def stop_in_step_five(train: Train) -> None:
    seen: list[int] = []

    def check() -> None:
        if seen and seen[-1] >= 4:
            raise Interrupted("terminated")

    with pytest.raises(Interrupted):
        train(epochs=3.0, progress=lambda state: seen.append(state.get("step", 0)), check=check)


def test_a_stopped_training_goes_on_to_the_same_weights(train: Train, tmp_path: Path) -> None:
    whole = train("whole", epochs=3.0)
    stop_in_step_five(train)
    assert files(tmp_path / "out") == ["unfinished"]
    resumed = train(epochs=3.0)
    assert resumed["resumed_from_step"] == 5
    assert resumed["steps"] == [pytest.approx(step) for step in whole["steps"]]
    assert files(tmp_path / "out") == ADAPTER
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "out"))
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("adapter_model.safetensors", 100),
        ("optimizer.pt", 0),
        ("optimizer.pt", 20),
        ("optimizer.pt", 5000),
        ("scheduler.pt", 0),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(
    train: Train, tmp_path: Path, name: str, left: int
) -> None:
    stop_in_step_five(train)
    checkpoints = tmp_path / "out" / "unfinished" / "checkpoints"
    os.truncate(checkpoints / "checkpoint-5" / name, left)
    with pytest.raises(NotReady, match=f"{checkpoints} could not be .* read .*remove the newest of them"):
        train(epochs=3.0)
    shutil.rmtree(checkpoints / "checkpoint-5")
    assert train(epochs=3.0)["resumed_from_step"] == 4


def test_an_unfinished_training_is_not_continued_with_anything_else(train: Train, tmp_path: Path) -> None:
    def stop() -> None:
        if (tmp_path / "out").exists():
            raise Interrupted("terminated")

    with pytest.raises(Interrupted):
        train(check=stop)
    with pytest.raises(Conflict, match="unfinished training with another beta, seed"):
        train(beta=0.5, seed=7)
    others = write_rows(tmp_path / "others.jsonl", map(rated, range(1, 11)))
    with pytest.raises(Conflict, match="unfinished training with another data"):
        train(data=others)
    assert train()["resumed_from_step"] == 0


@pytest.mark.parametrize("bytes_", [10_000, 80_000])
def test_a_full_disk_is_said_and_loses_nothing(train: Train, tmp_path: Path, bytes_: int) -> None:
    """No file may grow beyond so many bytes: too few for the adapter, or for the optimizer's state only."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, limits[1]))
    try:
        with pytest.raises(NotReady, match=f"{tmp_path}/out could not be written .*; free some disk space"):
            train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert train()["resumed_from_step"] == 0
    assert files(tmp_path / "out") == ADAPTER


def test_a_report_that_cannot_be_written_is_named_and_the_training_is_not_lost(
    train: Train, tmp_path: Path
) -> None:
    report = tmp_path / "missing" / "report.json"
    with pytest.raises(NotReady, match=f"{report} could not be written .*repeat the command"):
        train(report=report)
    report.parent.mkdir()
    assert train(report=report)["resumed_from_step"] == 3


def test_whoever_has_the_adapter_has_the_report(train: Train, tmp_path: Path) -> None:
    """It is written first: after a kill between the two the same command does both again."""
    report = tmp_path / "report.json"
    in_the_way = tmp_path / "out" / "README.md"

    def obstruct(state: dict[str, Any]) -> None:
        if state["phase"] == "writing the adapter":
            in_the_way.mkdir()

    with pytest.raises(NotReady, match="could not be written"):
        train(report=report, progress=obstruct)
    assert len(json.loads(report.read_text())["steps"]) == 3
    report.unlink()
    in_the_way.rmdir()
    made = train(report=report)
    assert json.loads(report.read_text()) == made
    assert [step["step"] for step in made["steps"]] == [1, 2, 3]
    assert files(tmp_path / "out") == ADAPTER


def test_a_kill_while_the_adapter_is_brought_out_loses_nothing(train: Train, tmp_path: Path) -> None:
    def stop() -> None:
        if list(tmp_path.glob("out/unfinished/checkpoints/checkpoint-2")):
            raise Interrupted("terminated")

    with pytest.raises(Interrupted):
        train(check=stop)
    # What publish leaves if it ends after its first files: some are out, the work is still there.
    (tmp_path / "out" / "README.md").write_text("half")
    (tmp_path / "out" / "unfinished" / "adapter").mkdir(exist_ok=True)
    assert train()["resumed_from_step"] == 3
    assert files(tmp_path / "out") == ADAPTER
    assert "# A Thumbloop adapter" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("owner/model", "base_model: owner/model\n"),
        ("/home/ada/model", 'from_pretrained("/home/ada/model")'),
        ("smollm2-135m-instruct", 'from_pretrained("data/models/smollm2-135m-instruct")'),
    ],
)
def test_a_card_says_where_the_base_model_is(train: Train, tmp_path: Path, base: str, words: str) -> None:
    train()
    lineage = json.loads((tmp_path / "out" / "lineage.json").read_text())
    card = model_card(lineage | {"base_model": base})
    assert words in card
    assert card.count("base_model: ") == base.startswith("owner"), "only a hub's id is one for the hub"
