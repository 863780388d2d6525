"""Sweeps on the tiny model: what is measured, what a stop leaves, and how often a reference is computed."""

import csv
import math
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import LlamaModel
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from storage.db.database import Database
from storage.db.ids import new_id
from storage.errors import Conflict, InvalidInput
from storage.imports.importer import import_file
from storage.registry.model_versions import ensure_base
from storage.registry.stored_artifacts import open_artifacts
from storage.settings import Settings
from tests.support.rated_files import both_replies, some_rows, some_settings, write_rows
from tests.support.trainings import Steps, as_text
from trainer.engine.kto import common_arguments, lora_config
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.errors import Interrupted
from trainer.gate.measures import Evaluation
from trainer.model import base_model
from trainer.sweep.data import FileSource, Votes, find_pairs, read_split
from trainer.sweep.dpo import train_on_pairs
from trainer.sweep.folder import SweepFolder, all_sweeps
from trainer.sweep.grid import Grid, Point
from trainer.sweep.outcome import Sweep
from trainer.sweep.point import read_measures
from trainer.sweep.stored import share_sweeps
from trainer.sweep.sweep import WantedSweep, run_sweep

RunSweep = Callable[..., Sweep]
GRID = Grid((0.1, 0.5), ("kto", "dpo"), (1e-2,))


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> Settings:
    return some_settings(tmp_path, tiny_model)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return some_rows(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> WantedSweep:
    """A sweep of GRID in one go, without a reference cache."""
    folder = tmp_path_factory.mktemp("finished")
    settings = some_settings(folder, tiny_model).model_copy(update={"reference_cache_mb": 0})
    wanted = WantedSweep(FileSource(some_rows(folder)), GRID, settings, folder / "out")
    run_sweep(wanted)
    return wanted


@pytest.fixture
def sweep(tmp_path: Path, settings: Settings, rows: Path) -> RunSweep:
    """Sweeps GRID on 24 rows into tmp_path/out; arguments and settings may be given."""

    def sweep(out: str | None = "out", **given: Any) -> Sweep:
        hooks = {name: given.pop(name) for name in ("progress", "check") if name in given}
        of, grid = given.pop("of", FileSource(rows)), given.pop("grid", GRID)
        other = {name: given.pop(name) for name in ("strict", "budget") if name in given}
        chosen = settings.model_copy(update=given)
        folder = tmp_path / out if out is not None else None
        return run_sweep(WantedSweep(of, grid, chosen, folder, **other), **hooks)[1]

    return sweep


def folder_of(wanted: WantedSweep) -> Path:
    assert wanted.out is not None
    return wanted.out


def table(folder: Path) -> list[dict[str, str]]:
    """results.csv without the seconds, which differ each time."""
    with (folder / "results.csv").open() as file:
        return [{name: row[name] for name in row if name != "seconds"} for row in csv.DictReader(file)]


def test_a_grid_is_measured_and_ranked(finished: WantedSweep) -> None:
    folder = folder_of(finished)
    found = SweepFolder(folder).read()
    assert (found.missing, found.left) == ([], 0)
    assert {(r.point.loss, r.point.beta) for r in found.ranked} == {
        (loss, beta) for loss in ("kto", "dpo") for beta in (0.1, 0.5)
    }
    for result in found.ranked:
        assert result["auc"] == 1.0, "so strong a training tells them apart"
        assert result["auc_standard_error"] > 0  # type: ignore[operator]
        assert result["liked_change"] > 1  # type: ignore[operator]
        assert result["margin"] > result["liked_change"]  # type: ignore[operator]
        assert result.seconds > 0
    changes = [result["liked_change"] for result in found.ranked]
    assert len(set(changes)) == 4, "the points differ"
    assert changes == sorted(changes, reverse=True), "their AUC is tied"
    assert found.plan["training"] == {"up": 9, "down": 9, "pairs": 9}
    assert found.plan["held_out"] == {"up": 3, "down": 3}
    assert found.plan["identity"]["seed"] == 0
    assert "plus" not in (folder / "journal.log").read_text()
    assert [row["rank"] for row in table(folder)] == ["1", "2", "3", "4"]
    assert not list(folder.glob("point-*"))


def test_the_plot_is_drawn_where_matplotlib_is(finished: WantedSweep) -> None:
    pytest.importorskip("matplotlib")
    assert (folder_of(finished) / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_one_that_was_stopped_goes_on_and_ends_alike(
    sweep: RunSweep, settings: Settings, tmp_path: Path, finished: WantedSweep
) -> None:
    found = sweep(budget=0.0)
    assert (len(found.ranked), found.left) == (1, 3), "a budget of nothing makes one point"
    assert found.missing == GRID.points()[1:]
    assert [row["state"] for row in table(tmp_path / "out")] == ["measured", *["missing"] * 3]
    made: list[str] = []

    def stop(state: dict[str, Any]) -> None:
        if state["phase"].startswith("2 of 3") and state.get("step") == 2:
            raise Interrupted("terminated")

    with pytest.raises(Interrupted):
        sweep(progress=stop)
    assert len(SweepFolder(tmp_path / "out").read().ranked) == 2
    sweep(progress=lambda state: made.append(state["phase"]))
    assert {phase.split(":")[0] for phase in made} == {"reading feedback", "1 of 2", "2 of 2"}
    assert table(tmp_path / "out") == table(folder_of(finished)), "the same seed gives the same numbers"

    with sqlite3.connect(settings.data_dir / "references.db") as file:
        file.execute("UPDATE reference SET logp = 2 * logp")
    sweep("misled", grid=Grid((0.5,), GRID.losses, GRID.learning_rates))
    honest = {row["loss"]: row["liked_change"] for row in table(tmp_path / "out") if row["beta"] == "0.5"}
    misled = {row["loss"]: row["liked_change"] for row in table(tmp_path / "misled")}
    assert all(honest[loss] != misled[loss] for loss in GRID.losses), "points share their references"


def test_a_folder_takes_no_other_sweep(finished: WantedSweep, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="another grid"):
        run_sweep(replace(finished, grid=Grid((0.1,), ("kto",), (1e-2,))))
    with pytest.raises(Conflict, match="another seed"):
        run_sweep(replace(finished, settings=finished.settings.model_copy(update={"seed": 1})))
    more = write_rows(tmp_path / "rows.jsonl", [row for n in range(13) for row in both_replies(n)])
    with pytest.raises(Conflict, match="another feedback"):
        run_sweep(replace(finished, of=FileSource(more)))
    folder = SweepFolder(folder_of(finished))
    assert folder.plan is not None
    with folder.claimed(folder.plan), pytest.raises(Conflict, match="Another process"):
        run_sweep(finished)


@pytest.mark.parametrize("name", ["thesis.txt", "sweep.json"])
def test_what_is_no_sweep_or_an_earlier_one_s_is_left_alone(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "sweeps" / new_id()
    folder.mkdir(parents=True)
    (folder / name).write_text("{}")
    with pytest.raises(Conflict, match="holds something that is not a sweep, or one of an earlier version"):
        SweepFolder(folder)
    assert all_sweeps(tmp_path) == []


def test_a_line_that_a_full_disk_cut_is_dropped(finished: WantedSweep, tmp_path: Path) -> None:
    shutil.copytree(folder_of(finished), tmp_path / "copy")
    journal = tmp_path / "copy" / "journal.log"
    with journal.open("a") as file:
        file.write('{"op_code": 4, "wor')
    folder = SweepFolder(tmp_path / "copy")
    assert folder.read().left == 0
    assert folder.plan is not None
    with folder.claimed(folder.plan):
        folder.study.set_user_attr("written", "whole")
    assert SweepFolder(tmp_path / "copy").study.user_attrs["written"] == "whole"
    journal.write_text("{\n{\n")
    with pytest.raises(Conflict, match="is damaged"):
        SweepFolder(tmp_path / "copy")


def test_another_machine_shows_a_sweep_and_goes_on_with_it(
    finished: WantedSweep, settings: Settings, database: Database, tmp_path: Path
) -> None:
    with database.write() as session:
        ensure_base(session, "tiny")
    store = {"artifacts": f"file://{tmp_path}/store"}
    here, there = (
        open_artifacts(settings.model_copy(update=store | {"data_dir": tmp_path / name}), database)
        for name in ("here", "there")
    )
    shutil.copytree(folder_of(finished), here.data_dir / "sweeps" / new_id())
    for artifacts in (here, there):
        share_sweeps(artifacts)
    (one,), (other,) = all_sweeps(here.data_dir), all_sweeps(there.data_dir)
    assert other.read() == one.read()
    assert {path.name for path in other.folder.iterdir()} >= {"results.csv", "plot.png"}

    assert other.plan is not None
    with other.claimed(other.plan):
        other.study.set_user_attr("written", "there")
    share_sweeps(there)
    assert one.plan is not None
    with one.claimed(one.plan):
        share_sweeps(here)
        assert one.journal.read_bytes() != other.journal.read_bytes(), "somebody works on it"
    share_sweeps(here)
    assert one.journal.read_bytes() == other.journal.read_bytes()


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_points_are_drawn_between_the_values(sweep: RunSweep, sampler: Any) -> None:
    grid = Grid((0.1, 0.5), ("kto",), (1e-3, 1e-2), sampler, 2)
    first = sweep(grid=grid, budget=0.0)
    assert (len(first.ranked), first.missing, first.left) == (1, [], 1)
    found = sweep(grid=grid)
    one, other = (result.point for result in found.ranked)
    assert (one != other, found.left) == (True, 0)
    assert all(0.1 < point.beta < 0.5 and 1e-3 < point.learning_rate < 1e-2 for point in (one, other))


def test_without_pairs_their_losses_are_left_out_or_refused(
    sweep: RunSweep, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unpaired = [both_replies(n)[n % 2] for n in range(24)]
    of = FileSource(write_rows(tmp_path / "unpaired.jsonl", unpaired))
    with pytest.raises(InvalidInput, match=r"DPO and IPO need pairs.*leave them out of --losses"):
        sweep("strict", of=of, strict=True)
    assert not (tmp_path / "strict").exists()
    with caplog.at_level("INFO", logger="trainer"):
        found = sweep(of=of, budget=0.0)
    assert {point.loss for point in (*found.missing, found.ranked[0].point)} == {"kto"}
    assert "there are 0 to train on: they are left out." in caplog.text


def test_points_that_diverge_are_listed_and_never_win(sweep: RunSweep, tmp_path: Path) -> None:
    found = sweep(grid=Grid((0.1,), ("kto", "dpo"), (1e30,)))
    assert found.winner is None
    assert [row["state"] for row in table(tmp_path / "out")] == ["diverged"] * 2
    assert all("finite" in result.diverged for result in found.ranked)
    assert "No winner among 2 of 2 points: each diverged" in found.verdict()


def test_too_little_held_out_and_no_matplotlib_are_said(
    sweep: RunSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = sweep(grid=Grid((0.1,), ("kto",), (1e-2,)), gate_min_votes=7)
    assert "Not enough evidence: there are 6 held-out votes and the gate needs 7" in found.verdict()
    assert "`pip install 'thumbloop[plot]'`" in caplog.text
    assert not (tmp_path / "out" / "plot.png").exists()


def test_votes_are_swept_as_of_when_the_sweep_began(
    sweep: RunSweep, settings: Settings, database: Database, tmp_path: Path, rows: Path
) -> None:
    import_file(database, rows)
    grid = Grid((0.1,), ("kto", "dpo"), (1e-2,))
    began = sweep(None, of=Votes(database), grid=grid, budget=0.0)
    later = [row for n in range(20, 24) for row in both_replies(n)]
    import_file(database, write_rows(tmp_path / "later.jsonl", later))
    found = sweep(None, of=Votes(database), grid=grid)
    assert (found.missing, found.plan) == ([], began.plan)
    assert len(all_sweeps(settings.data_dir)) == 1
    again = sweep(None, of=Votes(database), grid=grid, budget=0.0)
    rows_of = [sum((*p["training"].values(), *p["held_out"].values())) for p in (began.plan, again.plan)]
    assert rows_of[1] > rows_of[0], "one that is done is not gone on with"
    newest, older = all_sweeps(settings.data_dir)
    assert (newest.read().name, older.read().name) == (again.name, found.name)


@pytest.mark.parametrize(("loss", "stock"), [("dpo", "sigmoid"), ("ipo", "ipo")])
def test_pairs_train_as_with_stock_trl(
    settings: Settings, rows: Path, tmp_path: Path, loss: Any, stock: str
) -> None:
    source = base_model.resolve(settings)
    chosen = settings.model_copy(update={"learning_rate": 1e-3, "beta": 0.3})
    model, tokenizer = base_model.load_model(source)
    pairs = read_split(FileSource(rows), tokenizer, source, chosen).pairs
    seen = Steps()
    train_on_pairs(
        *(model, tokenizer, pairs),
        loss=loss,
        settings=chosen,
        output_dir=tmp_path / "ours",
        references=ReferenceCache(tmp_path / "references.db", model="tiny", max_mb=1),
        progress=seen,
    )
    ours = seen.of("loss")
    model, tokenizer = base_model.load_model(source)
    trainer = DPOTrainer(
        model,
        args=DPOConfig(
            **common_arguments(model, chosen, tmp_path / "theirs", checkpointing=False)
            | {"per_device_train_batch_size": 2, "max_length": 128},
            loss_type=[stock],
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": as_text(tokenizer, pair.up)["prompt"],
                    "chosen": as_text(tokenizer, pair.up)["completion"],
                    "rejected": as_text(tokenizer, pair.down)["completion"],
                }
                for pair in pairs
            ]
        ),
        processing_class=tokenizer,
        peft_config=lora_config(chosen),
    )
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(ours) == 5
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert ours[0] == pytest.approx(math.log(2) if loss == "dpo" else (1 / 0.6) ** 2, rel=1e-4)
    assert ours[-1] < ours[0] * (1 - 1e-3)


def test_pairs_are_of_rows_with_the_same_prompt(settings: Settings, rows: Path) -> None:
    source = base_model.resolve(settings)
    split = read_split(FileSource(rows), base_model.load_tokenizer(source), source, settings)
    assert len(split.pairs) == 9
    for pair in split.pairs:
        assert (pair.up.label, pair.down.label) == (True, False)
        assert pair.up.prompt_ids == pair.down.prompt_ids
    held_out = {row.chat_id for row in split.held_out}
    assert held_out.isdisjoint({row.chat_id for row in split.training})
    assert find_pairs(split.held_out[:1]) == []


def test_what_is_read_from_an_evaluation() -> None:
    evaluation = Evaluation(
        loss=0.0,
        auc=1.0,
        auc_standard_error=0.0,
        margin=3.5,
        desirable_log_probability=-1.0,
        n_desirable=2,
        n_undesirable=2,
        z0=0.25,
        rewards=[1.0, -1.0, 2.0, -3.0],
    )
    point, labels = Point("kto", 0.1, 1e-4), [True, False, True, False]
    found = read_measures(point, evaluation, labels, 2.0)
    assert found["liked_change"] == 1.5
    assert found["liked_standard_error"] == pytest.approx(0.5)
    assert found["auc_standard_error"] == pytest.approx(math.sqrt(5 / 48)), "so few votes are no certainty"
    assert (found["z0"], found["margin"], found.seconds, found.diverged) == (0.25, 3.5, 2.0, "")
    broken = Evaluation(**{**vars(evaluation), "rewards": [math.nan, 0.0, 0.0, 0.0]})
    assert "not finite" in read_measures(point, broken, labels, 1.0).diverged


def test_the_second_point_computes_no_reference(settings: Settings, rows: Path) -> None:
    """Those of training and of held-out votes are computed once in a sweep, for its first point."""
    adapter_on: Counter[tuple[str, bool]] = Counter()
    titles = ["before"]

    def count(module: Any, _inputs: Any) -> None:
        if isinstance(module, LlamaModel):
            layer = module.layers[0].self_attn.q_proj
            if hasattr(layer, "disable_adapters"):
                adapter_on[titles[-1].partition(":")[0], not layer.disable_adapters] += 1

    hook = register_module_forward_pre_hook(count)
    grid = Grid((0.1, 0.5), ("kto",), (1e-2,))
    wanted = WantedSweep(FileSource(rows), grid, settings)
    try:
        run_sweep(wanted, progress=lambda state: titles.append(state["phase"]))
    finally:
        hook.remove()
    assert adapter_on["1 of 2", True] == adapter_on["2 of 2", True] > 12, "training, votes and their partners"
    assert adapter_on["1 of 2", False] > 6
    assert adapter_on["2 of 2", False] == 0
