"""Sweeps on the tiny model: what is measured, what a stop leaves, and how often a reference is computed."""

import csv
import json
import math
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from storage.db.database import Database
from storage.errors import Conflict, InvalidInput
from storage.imports.importer import import_file
from storage.settings import Settings
from tests.support.rated_files import both_replies, some_rows, some_settings, write_rows
from trainer.engine.kto import lora_config
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.errors import Interrupted
from trainer.gate.measures import Evaluation
from trainer.model import base_model
from trainer.sweep.data import FileSource, Votes, read_split
from trainer.sweep.dpo import find_pairs, train_on_pairs
from trainer.sweep.folder import Sweep, SweepFolder, all_sweeps
from trainer.sweep.grid import Grid, Point
from trainer.sweep.point import read_measures
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
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The folder of a sweep of GRID in one go, without a reference cache."""
    folder = tmp_path_factory.mktemp("finished")
    settings = some_settings(folder, tiny_model).model_copy(update={"reference_cache_mb": 0})
    run_sweep(WantedSweep(FileSource(some_rows(folder)), GRID, settings, folder / "out"))
    return folder / "out"


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


def table(folder: Path) -> list[dict[str, str]]:
    """results.csv without the seconds, which differ each time."""
    with (folder / "results.csv").open() as file:
        found = list(csv.DictReader(file))
    for row in found:
        del row["seconds"]
    return found


def test_a_grid_is_measured_and_ranked(finished: Path) -> None:
    found = SweepFolder(finished).read()
    assert not found.missing
    assert {(r.point.loss, r.point.beta) for r in found.ranked} == {
        (loss, beta) for loss in ("kto", "dpo") for beta in (0.1, 0.5)
    }
    for result in found.ranked:
        assert result.auc == 1.0, "so strong a training tells them apart"
        assert result.auc_standard_error > 0  # type: ignore[operator]
        assert result.liked_change > 1  # type: ignore[operator]
        assert result.margin > result.liked_change  # type: ignore[operator]
        assert result.seconds > 0
    changes = [result.liked_change for result in found.ranked]
    assert len(set(changes)) == 4, "the points differ"
    assert changes == sorted(changes, reverse=True), "their AUC is tied"
    plan = json.loads((finished / "sweep.json").read_text())
    assert plan["training"] == {"up": 9, "down": 9, "pairs": 9}
    assert plan["held_out"] == {"up": 3, "down": 3}
    assert plan["identity"]["seed"] == 0
    assert "plus" not in (finished / "sweep.json").read_text()
    assert [row["rank"] for row in table(finished)] == ["1", "2", "3", "4"]
    assert not list((finished / "points").glob("point-*"))


def test_one_that_was_stopped_goes_on_and_ends_alike(sweep: RunSweep, tmp_path: Path, finished: Path) -> None:
    made: list[str] = []

    def stop(state: dict[str, Any]) -> None:
        made.append(state["phase"])
        if state["phase"].startswith("3 of 4") and state.get("step") == 2:
            raise Interrupted("terminated")

    with pytest.raises(Interrupted):
        sweep(progress=stop)
    files = sorted((tmp_path / "out" / "points").glob("*.json"))
    before = {file: file.stat().st_mtime_ns for file in files}
    assert len(before) == 2
    made.clear()
    sweep(progress=lambda state: made.append(state["phase"]))
    assert all(file.stat().st_mtime_ns == moment for file, moment in before.items()), "nothing is made twice"
    assert {phase.split(":")[0] for phase in made} == {"reading feedback", "1 of 2", "2 of 2"}
    assert table(tmp_path / "out") == table(finished), "and the same seed gives the same numbers"


def test_a_budget_of_nothing_makes_one_point(sweep: RunSweep, tmp_path: Path) -> None:
    found = sweep(budget=0.0)
    assert len(found.ranked) == 1
    assert [point.name for point in found.missing] == [point.name for point in GRID.points()[1:]]
    assert [row["state"] for row in table(tmp_path / "out")] == ["measured", *["missing"] * 3]
    assert len(sweep(budget=0.0).missing) == 2


def test_a_folder_takes_no_other_sweep(sweep: RunSweep, tmp_path: Path, rows: Path) -> None:
    sweep(budget=0.0)
    with pytest.raises(Conflict, match="another grid"):
        sweep(grid=Grid((0.1,), ("kto",), (1e-2,)))
    with pytest.raises(Conflict, match="another seed"):
        sweep(seed=1)
    write_rows(rows, [row for n in range(13) for row in both_replies(n)])
    with pytest.raises(Conflict, match="another feedback"):
        sweep()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    with pytest.raises(Conflict, match="holds something that is no sweep"):
        sweep("taken")
    with SweepFolder(tmp_path / "out").claimed(), pytest.raises(Conflict, match="Another process"):
        sweep(of=FileSource(write_rows(rows, [row for n in range(12) for row in both_replies(n)])))


def test_without_pairs_their_losses_are_left_out_or_refused(
    sweep: RunSweep, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unpaired = [both_replies(n)[n % 2] for n in range(24)]
    of = FileSource(write_rows(tmp_path / "unpaired.jsonl", unpaired))
    with pytest.raises(InvalidInput, match="DPO and IPO need pairs.*leave them out of --losses"):
        sweep("strict", of=of, strict=True)
    assert not (tmp_path / "strict" / "sweep.json").exists()
    with caplog.at_level("INFO", logger="trainer"):
        found = sweep(of=of)
    assert {result.point.loss for result in found.ranked} == {"kto"}
    assert "there are 0 to train on: they are left out." in caplog.text


def test_a_point_that_diverges_is_listed_and_never_wins(sweep: RunSweep, tmp_path: Path) -> None:
    found = sweep(grid=Grid((0.1,), ("kto", "dpo"), (1e-2, 1e30)))
    assert [result.point.learning_rate for result in found.ranked] == [1e-2, 1e-2, 1e30, 1e30]
    assert found.winner is found.ranked[0]
    assert [row["state"] for row in table(tmp_path / "out")] == ["measured"] * 2 + ["diverged"] * 2
    assert all("finite" in result.diverged for result in found.ranked[2:])


def test_too_little_held_out_is_said(sweep: RunSweep) -> None:
    found = sweep(grid=Grid((0.1,), ("kto",), (1e-2,)), gate_min_votes=7)
    assert "Not enough evidence: there are 6 held-out votes and the gate needs 7" in found.verdict()


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


def test_the_references_are_shared_among_the_points(
    sweep: RunSweep, settings: Settings, tmp_path: Path, finished: Path
) -> None:
    sweep()
    assert table(tmp_path / "out") == table(finished), "cached or not"
    with sqlite3.connect(settings.data_dir / "references.db") as file:
        file.execute("UPDATE reference SET logp = 2 * logp")
    sweep("misled", grid=Grid((0.5,), GRID.losses, GRID.learning_rates))
    honest = {row["loss"]: row["liked_change"] for row in table(finished) if row["beta"] == "0.5"}
    misled = {row["loss"]: row["liked_change"] for row in table(tmp_path / "misled")}
    assert all(honest[loss] != misled[loss] for loss in GRID.losses), "what others have written is read"


@pytest.mark.parametrize(("loss", "stock"), [("dpo", "sigmoid"), ("ipo", "ipo")])
def test_pairs_train_as_with_stock_trl(
    settings: Settings, rows: Path, tmp_path: Path, loss: Any, stock: str
) -> None:
    source = base_model.resolve(settings)
    chosen = settings.model_copy(update={"learning_rate": 1e-3, "beta": 0.3})
    model, tokenizer = base_model.load_model(source)
    pairs = read_split(FileSource(rows), tokenizer, source, chosen).pairs
    ours: list[float] = []
    train_on_pairs(
        model,
        tokenizer,
        pairs,
        loss=loss,
        settings=chosen,
        output_dir=tmp_path / "ours",
        references=ReferenceCache(tmp_path / "references.db", model="tiny", max_mb=1),
        progress=lambda state: ours.append(state["loss"]) if "loss" in state else None,
    )
    model, tokenizer = base_model.load_model(source)
    trainer = DPOTrainer(
        model,
        args=DPOConfig(
            output_dir=str(tmp_path / "theirs"),
            loss_type=[stock],
            beta=0.3,
            learning_rate=1e-3,
            num_train_epochs=1,
            per_device_train_batch_size=2,
            max_length=128,
            seed=0,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": pair.up.example.prompt,
                    "chosen": pair.up.example.completion,
                    "rejected": pair.down.example.completion,
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
    assert found.liked_change == 1.5
    assert found.liked_standard_error == pytest.approx(0.5)
    assert found.auc_standard_error == pytest.approx(math.sqrt(5 / 48)), "so few votes are no certainty"
    assert (found.z0, found.margin, found.seconds, found.diverged) == (0.25, 3.5, 2.0, "")
    broken = Evaluation(**{**vars(evaluation), "rewards": [math.nan, 0.0, 0.0, 0.0]})
    assert "not finite" in read_measures(point, broken, labels, 1.0).diverged


def test_the_plot_is_drawn_where_matplotlib_is(sweep: RunSweep, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sweep(budget=0.0)
    assert (tmp_path / "out" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_sweep_says_so_and_goes_on(
    sweep: RunSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert len(sweep(budget=0.0).ranked) == 1
    assert "`pip install 'thumbloop[plot]'`" in caplog.text
    assert not (tmp_path / "out" / "plot.png").exists()
