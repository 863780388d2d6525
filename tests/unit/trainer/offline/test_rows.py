"""Files as examples: in any format that can be imported, with their places, and chats kept together."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import InvalidInput
from storage.imports.rows.options import ImportOptions
from tests.support.rated_files import rated, write_rows
from trainer.offline.rows import read_rows

PAIRS = [
    {"prompt": f"Question {n}?", "chosen": f"Yes, {n}.", "rejected": f"No, {n}.", "tags": ["wrong"]}
    for n in range(3)
]


def test_rows_are_named_by_their_place(tmp_path: Path) -> None:
    found = read_rows(write_rows(tmp_path / "rows.jsonl", map(rated, range(3))))
    assert [example.message_id for example in found.examples] == ["line 1", "line 2", "line 3"]
    first = found.examples[0]
    assert first.prompt == [{"role": "user", "content": "What is 0 plus 0?"}]
    assert first.completion == [{"role": "assistant", "content": "It is 0."}]
    assert (first.label, first.source, first.token_ids) == (False, "import:kto", None)
    assert not found.lines()


def test_other_kinds_and_formats(tmp_path: Path) -> None:
    rows = [rated(number) for number in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "rows.csv").write_text("prompt,completion,label\nHi,Hello,true\n")
    for name, position, count in (("rows.parquet", "row 1", 3), ("rows.json", "element 1", 3)):
        found = read_rows(tmp_path / name).examples
        assert (found[0].message_id, len(found)) == (position, count)
    assert read_rows(tmp_path / "rows.csv").examples[0].label is True
    scored = write_rows(
        tmp_path / "s.jsonl", [{"prompt": "a", "response": "b", "score": n} for n in (1, 3, 5)]
    )
    found_scores = read_rows(scored, options=ImportOptions(up_from=4, down_to=2))
    assert [example.label for example in found_scores.examples] == [False, True]
    assert found_scores.lines() == ["Left out 1: score is between 2 and 4."]


def test_both_sides_of_a_pair_are_of_one_chat(tmp_path: Path) -> None:
    """Neighbours in a micro-batch are each other's mismatched reply, so the order must know them."""
    found = read_rows(write_rows(tmp_path / "pairs.jsonl", PAIRS)).examples
    assert [(example.message_id, example.label) for example in found[:2]] == [
        ("line 1", True),
        ("line 1", False),
    ]
    assert found[0].chat_id == found[1].chat_id != found[2].chat_id
    turns = [{"role": "user", "content": "Question 0?"}, {"role": "assistant", "content": "Yes, 0."}]
    later = rated(0, prompt=[*turns, {"role": "user", "content": "Sure?"}])
    (turn,) = read_rows(write_rows(tmp_path / "later.jsonl", [later])).examples
    assert turn.chat_id == found[0].chat_id


def test_only_the_first_rows(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [*map(rated, range(3)), rated(4, label="maybe")])
    assert len(read_rows(file, max_rows=3).examples) == 3
    with pytest.raises(InvalidInput, match="line 4: label must be .*Nothing was trained"):
        read_rows(file, max_rows=4)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nowhere.jsonl cannot be read: No such file"):
        read_rows(tmp_path / "nowhere.jsonl")
