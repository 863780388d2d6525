"""Files as data sets and applications write them: the right rows, or the right refusal."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from storage.errors import InvalidInput
from storage.imports.formats.table import FORMATS, check_options
from storage.imports.rows.options import ImportOptions
from tests.support.imported import convert, lines, rows_in, short

FOLDER = Path(__file__).parents[4] / "fixtures" / "formats"
# The options, and the rows: first letters of the roles, the reply, the label.
ROWS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "hh_rlhf.jsonl": ({}, [("uaua", "A wren.", True), ("uaua", "No.", False)]),
    "orca_dpo_pairs.jsonl": (
        {},
        [
            ("sua", "4.", True),
            ("sua", "It might be 5.", False),
            ("ua", "Blue.", True),
            ("ua", "I will not.", False),
        ],
    ),
    "ultrafeedback_binarized_tie.jsonl": ({}, []),
    "lf_alpaca_kto.jsonl": ({}, [("ua", "Bonjour", True), ("ua", "Hola", False)]),
    "lf_sharegpt_kto_tools.jsonl": ({}, [("tutta", "4 degrees.", True)]),
    "lf_sharegpt_dpo.jsonl": ({}, [("uaua", "An oak.", True), ("uaua", "A stone.", False)]),
    "openai_preference.jsonl": ({}, [("ua", "About 4 degrees.", True), ("ua", "Cold.", False)]),
    "kto_developer_role.jsonl": ({}, [("sua", "A fez.", True)]),
    "kto_greeting_first.jsonl": ({}, [("aua", "A fez.", True)]),
    "arena.jsonl": (
        {},
        [("ua", "The North Sea.", True), ("ua", "A lake.", False)]
        + [("ua", "The North Sea.", False), ("ua", "No.", False)] * 2,
    ),
    "ultrafeedback_raw.jsonl": (
        {"up_from": 4, "down_to": 2},
        [("sua", "Iron.", True), ("sua", "Wood.", False)],  # its overall score of 10 was meant as 1
    ),
    "librechat_export.json": ({}, [("ua", "Tango.", True)]),
    "openwebui_revoted.json": ({}, [("ua", "Salt? No, cumin.", False), ("ua", "Salt? No, cumin.", True)]),
    "kto_reasoning.jsonl": ({}, [("ua", "4", True), ("ua", "4", True), ("uaua", "4", True)]),
    "kto_same_after_cut.jsonl": (
        {},  # a training leaves both out: test_plan.py
        [("ua", "word " * 3000 + "good", True), ("ua", "word " * 3000 + "bad", False)],
    ),
    "kto_mix_15k.jsonl": ({}, [("ua", "Chess boxing.", True)]),
    "helpsteer2_multiturn.jsonl": (
        {"score_column": "helpfulness", "up_from": 3, "down_to": 1},
        [("uaua", "Bees", True), ("uaua", "The Very Busy Hive of Bees", False)],
    ),
}
REASONS: dict[str, tuple[dict[str, Any], str]] = {
    "argilla_search_score.jsonl": (
        {"up_from": 0.8, "down_to": 0.4},
        "score 0.83 may be how well the record fits a search.*score_column=score",
    ),
    "helpsteer2_multiturn.jsonl": (
        {"up_from": 3, "down_to": 1},
        "helpfulness and correctness may both be the score; say which it is: score_column=helpfulness",
    ),
    "kto_tools_column.jsonl": (
        {},
        "line 1: completion ends with a call of tools; only a reply in words is rated",
    ),
    "langfuse_scores.jsonl": (
        {},
        "line 1: A Langfuse score has no text; it lies in the trace t1. Export the",
    ),
    "openwebui_no_snapshot.json": ({}, "element 1: snapshot holds no messages; use the feedback export"),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_a_sample(name: str) -> None:
    options, expected = ROWS[name]
    found, report = rows_in(FOLDER / name, ImportOptions(**options))
    assert short(found) == expected
    assert report.rejected == 0


@pytest.mark.parametrize("name", REASONS)
def test_refusal_of_a_sample(name: str) -> None:
    options, expected = REASONS[name]
    with pytest.raises(InvalidInput, match=expected):
        rows_in(FOLDER / name, ImportOptions(**options))


def test_every_sample_has_a_test() -> None:
    assert {path.name for path in FOLDER.iterdir()} == ROWS.keys() | REASONS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_the_samples_of_the_docs_give_rows_in_bounds(name: str) -> None:
    for sample in FORMATS[name].samples:
        check_options(FORMATS[name], sample.options)
        json.dumps(sample.record)
        assert convert(sample.options.renamed(sample.record), sample.options)


@pytest.mark.parametrize("name", FORMATS)
def test_a_sample_means_the_same_in_a_data_set(name: str, tmp_path: Path) -> None:
    # Arrow gives every object the keys of all objects, null where one lacks them.
    for sample in FORMATS[name].samples:
        records = sample.record["rows"] if FORMATS[name].group else [sample.record]
        columns = {key: None for one in records for key, value in one.items() if value != {}}
        rows = [{key: one.get(key) for key in columns} for one in records]
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
        found, report = rows_in(tmp_path / "rows.parquet", sample.options)
        plain, other = rows_in(lines(*records).read(), sample.options)
        assert found == plain
        assert (report.format, report.dropped) == (name, other.dropped)
        assert set(report.left_out) == set(other.left_out)


def test_what_orca_s_prompt_says_is_the_prompt() -> None:
    rows, report = rows_in(FOLDER / "orca_dpo_pairs.jsonl")
    assert [turn.content for turn in rows[0].turns] == ["You answer briefly.", "What is 2 + 2?", "4."]
    assert report.left_out == {}
    alpaca, _ = rows_in(FOLDER / "lf_alpaca_kto.jsonl")
    assert alpaca[0].turns[0].content == "Translate to French.\nGood day"
    helpsteer, report = rows_in(
        FOLDER / "helpsteer2_multiturn.jsonl", ImportOptions(score_column="helpfulness", up_from=3, down_to=1)
    )
    assert [turn.content for turn in helpsteer[0].turns[:3]] == [
        "Write a title about bees",
        "The Busy Hive",
        "Shorter, please",
    ]
    assert report.left_out == {"correctness": 2, "coherence": 2, "complexity": 2, "verbosity": 2}
    _, report = rows_in(FOLDER / "ultrafeedback_binarized_tie.jsonl")
    assert report.dropped == {"chosen and rejected are rated alike": 2}
