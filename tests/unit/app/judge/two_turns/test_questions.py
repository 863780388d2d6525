"""The shipped questions, MT-Bench's format, and files that are refused."""

import json
from collections import Counter
from pathlib import Path

import pytest

from app.judge.two_turns.questions import OWN, SHIPPED, Question, read_questions
from storage.errors import InvalidInput

CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
ROW = {"question_id": 7, "category": "math", "turns": ["1 + 1?", "And twice that?"], "reference": ["2", "4"]}


def test_ten_questions_of_each_category_are_shipped() -> None:
    rows = [json.loads(line) for line in SHIPPED.read_text().splitlines()]
    assert Counter(row["category"] for row in rows) == dict.fromkeys(CATEGORIES, 10)
    assert [row["question_id"] for row in rows] == list(range(1, 81))
    assert {key for row in rows for key in row} == {"question_id", "category", "turns", "reference"}
    turns = [turn for row in rows for turn in row["turns"]]
    assert len(set(turns)) == len(turns) == 160
    with_reference = Counter(row["category"] for row in rows if "reference" in row)
    assert all(with_reference[category] == 10 for category in ("reasoning", "math", "coding", "extraction"))
    assert len(read_questions(OWN)) == 80


def test_the_shipped_python_references_are_programs() -> None:
    programs = [
        text
        for question in read_questions(OWN)
        if question.category == "coding" and question.reference
        for text in question.reference
        if text.startswith(("def ", "import ", "from "))
    ]
    assert len(programs) >= 14
    for program in programs:
        exec(program, {})


def test_mt_benchs_format_is_read_with_all_some_and_no_references(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    plain = {"question_id": "x", "category": "writing", "turns": ["a\u2028b", "c"], "reference": []}
    half = {**ROW, "question_id": 8, "reference": ["2", ""]}
    rows = [json.dumps(row, ensure_ascii=False) for row in (ROW, plain, half)]
    file.write_text("\n\n".join(rows))
    assert read_questions(str(file)) == [
        Question("7", "math", ("1 + 1?", "And twice that?"), ("2", "4")),
        Question("x", "writing", ("a\u2028b", "c")),
        Question("8", "math", ("1 + 1?", "And twice that?"), ("2", "")),
    ]


@pytest.mark.parametrize(
    "lines",
    [
        ["no JSON"],
        ["[]"],
        [json.dumps({**ROW, "turns": ["only one"]})],
        [json.dumps({**ROW, "turns": ["one", " "]})],
        [json.dumps({**ROW, "turns": "ab"})],
        [json.dumps({**ROW, "reference": ["one"]})],
        [json.dumps({**ROW, "category": 5})],
        [json.dumps({"category": "math", "turns": ["a", "b"]})],
    ],
)
def test_a_bad_line_is_named(lines: list[str], tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join([json.dumps({**ROW, "question_id": 1}), *lines]))
    with pytest.raises(InvalidInput, match="line 2: not an object with `question_id`"):
        read_questions(str(file))


def test_doubled_ids_and_missing_or_empty_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(f"{json.dumps(ROW)}\n{json.dumps(ROW)}\n")
    with pytest.raises(InvalidInput, match="line 2: question_id 7 is there already"):
        read_questions(str(file))
    file.write_text("\n")
    with pytest.raises(InvalidInput, match="there is no question in it"):
        read_questions(str(file))
    with pytest.raises(InvalidInput, match="neither `own` nor a file"):
        read_questions(str(tmp_path / "absent"))
