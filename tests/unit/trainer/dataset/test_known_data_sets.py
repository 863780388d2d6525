"""Rows as known data sets have them: through `datasets` and an import into TRL's own preparation."""

import json
import warnings
from pathlib import Path
from typing import Any

import datasets
import pytest
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer

from storage.db.database import Database
from storage.exports.exporter import Export, export_to
from storage.exports.plan import ExportPlan
from storage.imports.importer import import_file
from storage.imports.rows.options import ImportOptions
from tests.support.known_data_sets import DATA_SETS
from tests.support.rated_store import SALT
from trainer.offline.rows import read_rows


def saved(rows: list[dict[str, Any]], folder: Path) -> Path:
    """The rows as the hub has them: typed by Arrow, in Parquet."""
    datasets.Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set_is_read_whole(name: str, tmp_path: Path) -> None:
    rows, options, counts = DATA_SETS[name]
    found = read_rows(saved(rows, tmp_path), options=ImportOptions(**options))
    assert found.report.rejected == 0, found.lines()
    labels = [one.label for one in found.examples]
    assert (labels.count(True), labels.count(False)) == counts
    for one in found.examples:
        assert one.prompt[-1] == {"role": "user", "content": "Name a hue."}
        assert one.completion[0]["content"] in ("Red.", "No.")


def test_trl_prepares_what_is_exported_of_them(database: Database, tmp_path: Path, tiny_model: Path) -> None:
    wanted = 0
    for number, (rows, options, _) in enumerate(DATA_SETS.values()):
        own = json.dumps(rows).replace("Name a hue.", f"Name a hue, {number}.")  # equal rows would be one
        file = saved(json.loads(own), tmp_path)
        report = import_file(database, file, options=ImportOptions(**options))
        assert report.rejected == 0
        wanted += report.accepted
    with database.read() as session:
        export_to(tmp_path / "out", Export(session, ExportPlan(format="datasets"), salt=SALT))
    exported = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = trl.KTOConfig(
            output_dir=str(tmp_path / "trl"),
            per_device_train_batch_size=4,
            max_length=None,
            report_to=[],
            use_cpu=True,
        )
        trainer = trl.KTOTrainer(
            model=AutoModelForCausalLM.from_pretrained(tiny_model),
            args=args,
            train_dataset=exported,
            processing_class=tokenizer,
        )
    prepared = trainer.train_dataset
    assert len(prepared) == len(exported) == wanted > len(DATA_SETS)
    for row, ours in zip(prepared, exported, strict=True):
        assert tokenizer.decode(row["completion_ids"]).startswith(ours["completion"][0]["content"])
        assert "Name a hue, " in tokenizer.decode(row["prompt_ids"])
        assert row["label"] == ours["label"]
