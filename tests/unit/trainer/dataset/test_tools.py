"""Tools, from an import to training and exports: the template renders them, or they are left out by name."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from storage.db.database import Database
from storage.examples.example import Example, Examples
from storage.examples.filters import ExampleFilter
from storage.exports.exporter import Export
from storage.exports.plan import ExportPlan
from storage.imports.importer import import_file
from tests.support.chat_templates import CHATML, TOOLS, with_template
from tests.support.imported import lines
from tests.support.odd_conversations import comes_back
from tests.support.rated_store import SALT
from tests.support.tool_calls import ROWS
from trainer.dataset.template import NO_TOOLS, chat_template
from trainer.dataset.tokenise import tokenise
from trainer.offline.rows import read_rows


@pytest.fixture
def imported(database: Database) -> Database:
    for record in ROWS:
        assert import_file(database, lines(record)).accepted == 1
    return database


def examples(database: Database) -> list[Example]:
    with database.read() as session:
        return list(Examples(session, 10**9, ExampleFilter()).iterate())


def test_training_reads_what_a_template_makes_of_them(imported: Database, tiny_model: Path) -> None:
    tokenizer = with_template(AutoTokenizer.from_pretrained(tiny_model), TOOLS)
    rows, left_out = tokenise(tokenizer, examples(imported), max_length=4096)
    assert (len(rows), left_out) == (len(ROWS), {})
    text = tokenizer.decode(rows[1].prompt_ids)
    assert text.index('"description": "The weather of a city."') < text.index("Be brief.")
    assert 'I look.<tool_call>weather {"city": "Oslo"}</tool_call>' in text
    assert "<|im_start|>tool\n4 degrees<|im_end|>" in text
    assert "weather" not in tokenizer.decode(rows[-1].prompt_ids)


def test_a_template_without_a_place_for_them_leaves_them_out_by_name(
    imported: Database, tiny_model: Path
) -> None:
    tokenizer = with_template(AutoTokenizer.from_pretrained(tiny_model), CHATML)
    rows, left_out = tokenise(tokenizer, examples(imported), max_length=4096)
    assert len(rows) == 1
    assert NO_TOOLS in " ".join(left_out.lines())
    with imported.read() as session:
        export = Export(session, ExportPlan(shape="kto-text"), salt=SALT, template=chat_template(tokenizer))
        assert b"".join(export.chunks()).count(b"\n") == 1
    assert export.manifest()["left_out"] == {"refused by the chat template": 4}


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("shape", ["kto", "pairs"])
def test_they_come_back(imported: Database, tmp_path: Path, shape: str, format: str) -> None:
    other = {"prompt": ROWS[1]["prompt"], "tools": ROWS[1]["tools"], "completion": "Warm.", "label": False}
    import_file(imported, lines(other))
    comes_back(imported, tmp_path, shape, format)


@pytest.mark.parametrize("shape", ["sharegpt", "swift", "openai", "argilla"])
def test_a_shape_that_cannot_hold_them_counts_them(imported: Database, shape: str) -> None:
    with imported.read() as session:
        export = Export(session, ExportPlan(shape=shape), salt=SALT)  # type: ignore[arg-type]
        assert b"weather" not in b"".join(export.chunks())
    assert export.manifest()["left_out"] == {f"tools, which the shape {shape} does not hold": 4}


def test_a_file_is_trained_on_as_its_import(imported: Database, tmp_path: Path) -> None:
    files = []
    for at, record in enumerate(ROWS):
        (file := tmp_path / f"{at}.jsonl").write_text(json.dumps(record))
        files += read_rows(file).examples
    assert [one.prompt for one in files] == [one.prompt for one in examples(imported)]
