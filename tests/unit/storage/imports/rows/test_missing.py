"""Cells of CSV without a value: their rows are dropped by name, and no word for nothing is a text."""

from io import BytesIO
from typing import Any

import pytest

from storage.imports.files.tables import MISSING
from storage.imports.preview import Preview, preview_file
from storage.imports.rows.options import ImportOptions

SCORES = {"up_from": 4, "down_to": 2}


def read(*lines: str, **options: Any) -> Preview:
    text = "\n".join(lines).encode()
    return preview_file(BytesIO(text), name="rows.csv", options=ImportOptions(**options))


@pytest.mark.parametrize("word", ["", *sorted(MISSING)])
def test_a_row_without_a_value_is_dropped_by_name(word: str) -> None:
    found = read(
        "question,answer,label,system_prompt,rater",
        f"Q,A,{word},,",
        f"Q,{word},true,,",
        f"{word},A,true,,",
        f"Q,A,true,{word},{word}",
        f"Q,B,false,{word},{word}",
    )
    hint = " (plain=true takes it as words)" if word else ""
    assert found.report.dropped == {
        f"label is {word or 'empty'}, which is no value in CSV": 1,
        f"answer is {word or 'empty'}, which is no value in CSV{hint}": 1,
        f"question is {word or 'empty'}, which is no value in CSV{hint}": 1,
    }
    assert (found.up, found.down, found.report.rejected) == (1, 1, 0)
    assert [(row.turns[0], row.ballot) for _, row in found.rows] == [(("user", "Q", ""), None)] * 2


def test_of_scores_pairs_and_columns_of_other_names() -> None:
    scores = read("prompt,response,rating", "Q,A,nan", "Q,A,5", **SCORES)
    assert (scores.report.dropped, scores.up) == ({"rating is nan, which is no value in CSV": 1}, 1)
    named = read("q,a,stars", "Q,A,NA", "Q,A,5", columns="prompt=q,reply=a,score=stars", **SCORES)
    assert (named.report.dropped, named.up) == ({"stars is NA, which is no value in CSV": 1}, 1)
    pairs = read("prompt,chosen,rejected", "Q,A,nan", "Q,A,B")
    assert (sum(pairs.report.dropped.values()), pairs.up, pairs.down) == (1, 1, 1)


def test_words_that_are_meant_as_words() -> None:
    lines = ("prompt,completion,label", "What is NULL?,None,true")
    (_, row), *_ = read(*lines, plain=True).rows
    assert row.turns[-1].content == "None"
    labels = read("prompt,completion,label", "Q,A,NA", "Q,B,good", up_words="good", down_words="NA")
    assert (labels.up, labels.down) == (1, 1)


def test_our_own_export_has_no_missing_values() -> None:
    id = "01a22d0b-ecfc-771f-b07d-9ce2df25b7a3"
    asked = '"[{""role"": ""user"", ""content"": ""Q""}]"'
    found = read("prompt,completion,label,message_id,user_hash,comment", f"{asked},None,true,{id},h,nan")
    (_, row), *_ = found.rows
    assert (row.turns[-1].content, row.comment) == ("None", "nan")
