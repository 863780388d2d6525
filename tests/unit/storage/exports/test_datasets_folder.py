"""Exports in the hands of others: `datasets` loads each of them, TRL prepares them, our import takes them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from storage.db.database import Database
from storage.examples.weights import class_weights
from storage.exports.exporter import Export, export_to
from storage.exports.plan import ExportPlan
from storage.exports.shapes import ChatTemplate
from tests.support.odd_conversations import comes_back
from tests.support.rated_store import SALT, fill, template
from tests.support.rows import rate
from tests.support.trl_data import Template

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHAPES = ["kto", "kto-text", "pairs", "sharegpt", "swift", "openai", "argilla"]
LOADERS = {"jsonl": "json", "csv": "csv", "parquet": "parquet"}


def export(database: Database, target: Path, **plan: Any) -> dict[str, Any]:
    with database.read() as session:
        return export_to(
            target, Export(session, ExportPlan(**plan), salt=SALT, template=ChatTemplate(template))
        )


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
            Export(session, ExportPlan(shape=shape), salt=SALT, template=ChatTemplate(template)).chunks()  # type: ignore[arg-type]
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


@pytest.mark.parametrize("format", [*LOADERS, "datasets"])
def test_reasoning_in_one_row_gives_every_message_its_key(
    database: Database, tmp_path: Path, format: str
) -> None:
    fill(database)
    manifest = export(database, tmp_path / "without", format=format)
    with database.write() as session:
        (reply,) = rate(session, "Last?", {"Four.": True})
        reply.reasoning = "Two and two."
    export(database, tmp_path / "out", format=format)
    last = [{"role": "assistant", "content": "Four.", "reasoning_content": "Two and two."}]
    rows = load(tmp_path / "out", format)
    assert (json.loads(rows[-1]["completion"]) if format == "csv" else rows[-1]["completion"]) == last
    first = json.loads(rows[0]["prompt"]) if format == "csv" else rows[0]["prompt"]
    assert first[-1]["reasoning_content"] == ""
    snapshot = manifest["snapshot_event_id"]  # an older snapshot stays as it was
    with database.read() as session:
        again = Export(session, ExportPlan(format=format), salt=SALT, snapshot_event_id=snapshot)  # type: ignore[arg-type]
        assert export_to(tmp_path / "again", again)["sha256"] == manifest["sha256"]


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


def messages_again(rows: Any, format: str, names: tuple[str, ...]) -> Any:
    """The rows of a CSV as docs/exports.md says to read them."""
    return rows.map(lambda row: {name: json.loads(row[name]) for name in names}) if format == "csv" else rows


@pytest.mark.parametrize("format", [*LOADERS, "datasets"])
@pytest.mark.parametrize("shape", ["kto", "kto-text", "pairs"])
def test_trl_prepares_every_kto_export(
    database: Database, tmp_path: Path, tiny_model: Path, format: str, shape: str
) -> None:
    chat_template = Template(tiny_model)
    tokenizer = chat_template.tokenizer
    fill(database, 12)
    target = tmp_path / f"out.{format}"
    with database.read() as session:
        plan = ExportPlan(format=format, shape=shape)  # type: ignore[arg-type]
        manifest = export_to(target, Export(session, plan, salt=SALT, template=ChatTemplate(chat_template)))
    rows = load(target, format)
    if shape != "kto-text":
        texts = ("prompt", "completion") if shape == "kto" else ("prompt", "chosen", "rejected")
        rows = messages_again(rows, format, texts)
    prepared = chat_template.prepared("KTO", tiny_model, rows, tmp_path / "out")
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


@pytest.mark.parametrize("format", [*LOADERS, "datasets"])
def test_trl_prepares_pairs_for_dpo(
    database: Database, tmp_path: Path, tiny_model: Path, format: str
) -> None:
    chat_template = Template(tiny_model)
    fill(database, 12)
    manifest = export(database, tmp_path / f"out.{format}", format=format, shape="pairs")
    rows = messages_again(load(tmp_path / f"out.{format}", format), format, ("prompt", "chosen", "rejected"))
    prepared = chat_template.prepared("DPO", tiny_model, rows, tmp_path / "out")
    assert len(prepared) == manifest["rows"] > 3
    decode = chat_template.tokenizer.decode
    for row, ours in zip(prepared, rows, strict=True):
        prompt = chat_template(ours["prompt"], True)
        assert decode(row["prompt_ids"]) == prompt
        for side in ("chosen", "rejected"):
            text = chat_template(ours["prompt"] + ours[side], False).removeprefix(prompt)
            assert decode(row[f"{side}_ids"]).startswith(text)


@pytest.mark.parametrize("format", [*LOADERS, "datasets"])
@pytest.mark.parametrize("shape", ["kto", "sharegpt", "pairs"])
def test_an_export_imported_into_an_empty_store_exports_the_same(
    database: Database, tmp_path: Path, format: str, shape: str
) -> None:
    fill(database)
    with database.write() as session:  # several pairs of one prompt, and a longer chat
        rate(session, "=Which?", {"=A": True, "-B": False, "'C": False, "D": False, "E": True})
    comes_back(database, tmp_path, shape, format)


USED_BY = {
    "kto": "KTOTrainer",
    "kto-text": "KTOTrainer",
    "pairs": "DPOTrainer",
    "sharegpt": '"kto_tag": "kto_tag"',
    "swift": "swift rlhf",
    "openai": "preference fine-tuning",
    "argilla": "label question",
}


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
        if shape.startswith("kto"):
            found = class_weights(manifest["votes"]["up"], manifest["votes"]["down"], 15)
            assert f"desirable_weight={found.desirable:.4f}" in body, "as a training here weighs them"
        assert f"Thumbs up: {manifest['votes']['up']}, thumbs down: {manifest['votes']['down']}" in body
        assert '"consent": "given"' in body
        assert "| v1 |" in body
        assert USED_BY[shape] in body
