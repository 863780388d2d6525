"""Exports in the hands of others: `datasets` loads each of them, TRL prepares them, our import takes them."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from storage import imports, votes
from storage.database import Database, open_database
from storage.exports import Export, ExportPlan, export_to
from storage.settings import Settings
from tests.unit.feedback import SALT, fill, rate
from tests.unit.test_export_formats import template

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHAPES = ["kto", "kto-text", "pairs", "sharegpt"]
LOADERS = {"jsonl": "json", "csv": "csv", "parquet": "parquet"}


def export(database: Database, target: Path, **plan: Any) -> dict[str, Any]:
    with database.read() as session:
        return export_to(target, session, ExportPlan(**plan), salt=SALT, template=template)


def load(target: Path, format: str) -> Any:
    import datasets

    cache = str(target.with_name("cache"))
    datasets.disable_progress_bars()
    if format == "datasets":
        return datasets.load_dataset(str(target), split="train", cache_dir=cache)
    return datasets.load_dataset(LOADERS[format], data_files=str(target), split="train", cache_dir=cache)


@pytest.mark.parametrize("format", [*LOADERS, "datasets"])
@pytest.mark.parametrize("shape", SHAPES)
def test_datasets_loads_every_export(database: Database, tmp_path: Path, format: str, shape: str) -> None:
    fill(database)
    manifest = export(database, tmp_path / f"out.{format}", format=format, shape=shape)
    rows = load(tmp_path / f"out.{format}", format)
    assert len(rows) == manifest["rows"] > 10
    with database.read() as session:
        lines = b"".join(
            Export(session, ExportPlan(shape=shape), salt=SALT, template=template).chunks()  # type: ignore[arg-type]
        )
    expected = [json.loads(line) for line in lines.decode().split("\n")[:-1]]
    messages = [name for name in ("prompt", "completion", "chosen", "conversations") if name in expected[0]]
    for row, wanted in zip(rows, expected, strict=True):
        for name in messages:
            value = row[name]
            if format == "csv":
                value = json.loads(value) if isinstance(wanted[name], list) else value.removeprefix("'")
            assert value == wanted[name]
        assert row.get("label") == wanted.get("label")
        assert row.get("kto_tag") == wanted.get("kto_tag")


def test_a_comment_after_megabytes_without_one_still_loads(database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        for number in range(400):
            rate(session, f"{number} " + "x" * 40_000, {"Yes.": True})
        rate(session, "Last?", {"No.": False}, comment="Finally.", tags=["wrong"])
    export(database, tmp_path / "out.jsonl")
    rows = load(tmp_path / "out.jsonl", "jsonl")
    assert (tmp_path / "out.jsonl").stat().st_size > 15_000_000  # several of the reader's blocks
    assert (rows[0]["comment"], rows[-1]["comment"]) == ("", "Finally.")
    assert (rows[0]["tags"], rows[-1]["tags"]) == ("[]", '["wrong"]')


@pytest.mark.parametrize("format", ["jsonl", "parquet", "datasets"])
@pytest.mark.parametrize("shape", ["kto", "kto-text", "pairs"])
def test_trl_prepares_every_kto_export(
    database: Database, tmp_path: Path, tiny_model: Path, format: str, shape: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def chat_template(messages: list[dict[str, str]], generate: bool) -> str:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
        assert isinstance(text, str)
        return text

    fill(database, 12)
    target = tmp_path / f"out.{format}"
    with database.read() as session:
        plan = ExportPlan(format=format, shape=shape)  # type: ignore[arg-type]
        manifest = export_to(target, session, plan, salt=SALT, template=chat_template)
    rows = load(target, format)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = KTOTrainer(
            model=AutoModelForCausalLM.from_pretrained(tiny_model),
            args=KTOConfig(
                output_dir=str(tmp_path / "out"),
                per_device_train_batch_size=4,
                max_length=None,
                report_to=[],
                use_cpu=True,
            ),
            train_dataset=rows,
            processing_class=tokenizer,
        )
    prepared = trainer.train_dataset
    assert len(prepared) == manifest["rows"] * (2 if shape == "pairs" else 1)
    assert set(prepared["label"]) == {True, False}
    if shape != "pairs":
        for row, ours in zip(prepared, rows, strict=True):
            prompt, completion = ours["prompt"], ours["completion"]
            if shape == "kto":
                completion = chat_template(prompt + completion, False).removeprefix(
                    chat_template(prompt, True)
                )
                prompt = chat_template(prompt, True)
            assert tokenizer.decode(row["prompt_ids"]) == prompt
            assert tokenizer.decode(row["completion_ids"]).startswith(completion)


@pytest.mark.parametrize(
    ("format", "shape"),
    [("jsonl", "kto"), ("parquet", "kto"), ("csv", "kto"), ("datasets", "kto"), ("jsonl", "sharegpt")],
)
def test_an_export_imported_into_an_empty_store_exports_the_same(
    database: Database, tmp_path: Path, format: str, shape: str
) -> None:
    fill(database)
    export(database, tmp_path / "first", format=format, shape=shape)
    other = open_database(Settings(data_dir=tmp_path / "other"))
    try:
        imports.import_file(other, tmp_path / "first")
        with other.read() as session:
            assert votes.latest_event_id(session)
        assert kto_columns(other) == kto_columns(database)
    finally:
        other.close()


def kto_columns(database: Database) -> bytes:
    with database.read() as session:
        data = b"".join(Export(session, ExportPlan(), salt=SALT).chunks()).decode()
    rows = [json.loads(line) for line in data.split("\n")[:-1]]
    kept = [{name: row[name] for name in ("prompt", "completion", "label")} for row in rows]
    return json.dumps(kept, ensure_ascii=False).encode()


def test_the_card_tells_the_counts_the_filters_and_the_way_to_train(
    database: Database, tmp_path: Path
) -> None:
    import yaml

    fill(database)
    for shape in SHAPES:
        manifest = export(database, tmp_path / shape, format="datasets", shape=shape, licence="cc0-1.0")
        card = (tmp_path / shape / "README.md").read_text()
        _, metadata, body = card.split("---\n", 2)
        known = yaml.safe_load(metadata)
        assert known["license"] == "cc0-1.0"
        assert known["size_categories"] == ["n<1K"]
        assert f"- Rows: {manifest['rows']}\n" in body
        assert f"Thumbs up: {manifest['votes']['up']}, thumbs down: {manifest['votes']['down']}" in body
        assert '"consent": "given"' in body
        assert "| v1 |" in body
        assert {"kto": "KTOTrainer", "kto-text": "KTOTrainer", "pairs": "DPOTrainer"}.get(
            shape, '"kto_tag": "kto_tag"'
        ) in body


@pytest.mark.parametrize(("up", "down"), [(1, 1), (10, 1), (1, 10), (4, 3), (5, 3), (3, 4), (1000, 7)])
def test_the_suggested_weights_balance_the_classes(up: int, down: int) -> None:
    from storage.dataset_card import weights

    desirable, undesirable = weights(up, down)
    assert 1 <= desirable * up / (undesirable * down) <= 4 / 3
    assert weights(0, down) == weights(up, 0) == (1.0, 1.0)
