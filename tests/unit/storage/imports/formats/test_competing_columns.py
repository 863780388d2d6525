"""Columns that say another thing than the ones that are read: the import asks, or drops the row by name."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from storage.errors import InvalidInput
from storage.imports.importer import import_file
from storage.imports.preview import Preview, preview_file
from storage.imports.rows.options import ImportOptions
from tests.support.imported import lines

KTO = {"prompt": "Q", "completion": "A", "label": True}
PAIR = {"prompt": "Q", "chosen": "A", "rejected": "B"}


def read(record: dict[str, Any], **options: Any) -> Preview:
    return preview_file(lines(record), options=ImportOptions(**options))


@pytest.mark.parametrize(
    "name", ["prediction", "model_output", "generated_text", "LLM_response", "generation"]
)
def test_a_gold_answer_is_not_taken_for_what_the_model_wrote(name: str) -> None:
    record = {"question": "2 + 2?", "answer": "4", name: "5", "label": False}
    (found,) = read(record).report.rejections
    assert f"answer and {name} may both be the reply" in found.reason
    ((_, row),) = read(record, columns=f"reply={name},reference=answer").rows
    assert (row.turns[-1].content, row.label) == ("5", False)
    assert read(record, leave_out=name).down == 1
    rated = {"question": "2 + 2?", "answer": "4", name: "5", "rating": 1}
    assert read(rated, up_from=4, down_to=2).report.rejected == 1


@pytest.mark.parametrize(
    ("name", "value"), [("label", False), ("preference", "rejected"), ("winner", "Rejected")]
)
def test_a_pair_whose_rejected_reply_is_said_to_be_better(name: str, value: Any) -> None:
    (found,) = read(PAIR | {name: value}).report.rejections
    assert "as if the rejected reply were the better one" in found.reason
    assert read(PAIR | {name: value}, leave_out=name).up == 1
    agreeing = read(PAIR | {name: "chosen"})
    assert (agreeing.up, agreeing.report.left_out) == (1, {})


@pytest.mark.parametrize(
    ("margin", "options", "dropped"),
    [
        (-1, {}, "chosen is rated below rejected"),
        (0, {}, "chosen and rejected are rated alike"),
        (0.5, {"min_margin": 1}, "chosen is rated less than 1 above rejected"),
        (0.5, {}, None),
    ],
)
def test_a_margin_says_how_much_better_the_chosen_reply_is(
    margin: float, options: dict[str, Any], dropped: str | None
) -> None:
    assert read(PAIR | {"margin": margin}, **options).report.dropped == ({dropped: 2} if dropped else {})


def test_what_a_model_may_have_read_or_a_person_withdrawn_under_more_names() -> None:
    assert "docs" in read(KTO | {"docs": "d"}).report.rejections[0].reason
    assert read(KTO | {"sources": ["d"]}).report.left_out == {"sources": 1}
    assert read(KTO | {"deleted": 1}).report.dropped == {"a vote that was withdrawn (deleted)": 1}


def test_what_a_column_says_of_the_reply_alone() -> None:
    named = {"stop_reason": "max_tokens", "done_reason": "length", "finish_reason": "MODEL_LENGTH"}
    for ended in ({name: reason} for name, reason in named.items()):
        assert read(KTO | ended).rows[0][1].cut, ended
    ((_, row),) = read(KTO | {"reasoning_content": "Hm.\n"}).rows
    assert row.turns[-1] == ("assistant", "A", "Hm.")
    found = read(PAIR | {"chosen_reasoning_content": "Hm.", "reasoning": "A judge's."})
    assert [one.turns[-1].reasoning for _, one in found.rows] == ["Hm.", ""]
    assert found.report.left_out == {"reasoning": 1}
    asked = [{"role": "prompter", "content": "Q"}, {"role": "ai", "content": "A"}]
    assert [turn.role for turn in read({"messages": asked, "label": True}).rows[0][1].turns] == [
        "user",
        "assistant",
    ]


def test_comparisons_that_cannot_be_meant() -> None:
    asked = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    other = [{"role": "user", "content": "R"}, {"role": "assistant", "content": "B"}]
    arena = {"model_a": "x", "model_b": "y", "winner": "model_a", "conversation_a": asked}
    assert "ask different questions" in read(arena | {"conversation_b": other}).report.rejections[0].reason
    strength = {"prompt": "Q", "response_1": "A", "response_2": "B", "preference_strength": -100}
    assert "must be from -3 to 3" in read(strength).report.rejections[0].reason
    swift = {"messages": asked, "rejected_messages": [asked[0], other[1]]}
    assert (read(swift).up, read(swift).report.left_out) == (1, {})


def test_spaces_after_the_separators_of_a_header_are_not_of_the_texts() -> None:
    file = b'prompt, completion, label\nQ, "A, b", TRUE\n'
    ((_, row),) = preview_file(BytesIO(file), name="a.csv").rows
    assert (row.turns[-1].content, row.label) == ("A, b", True)


def test_a_folder_of_two_formats_is_refused_by_the_name_of_the_file(database: Any, tmp_path: Path) -> None:
    (folder := tmp_path / "rows" / "b").mkdir(parents=True)
    (folder.parent / "a.jsonl").write_bytes(lines(KTO).getvalue())
    (folder / "c.jsonl").write_bytes(lines(PAIR).getvalue())
    words = (
        "b/c.jsonl, line 1: completion is missing. It looks like the format pairs; all of a file or folder"
    )
    with pytest.raises(InvalidInput, match=words):
        import_file(database, folder.parent)
    report = import_file(database, folder.parent, skip_bad=True)
    assert (report.accepted, report.rejected, report.notes) == (1, 1, ["read a.jsonl", "read b/c.jsonl"])


@pytest.mark.parametrize("name", ["a.ndjson", "a.tsv"])
def test_files_of_a_folder_may_have_these_names_too(tmp_path: Path, name: str) -> None:
    text = (
        "prompt\tcompletion\tlabel\nQ\tA\ttrue\n" if name.endswith("tsv") else lines(KTO).getvalue().decode()
    )
    (tmp_path / name).write_text(text)
    (tmp_path / "README.md").write_text("About.")
    found = preview_file(tmp_path)
    assert (found.up, found.report.notes) == (1, ["not read: README.md"])


@pytest.mark.parametrize(
    ("record", "options", "name", "other"),
    [
        (KTO, {}, "Label", False),
        (KTO, {}, "Completion", "B"),
        (PAIR, {}, "Rejected", "C"),
        ({"prompt": "Q", "response": "A", "score": 5}, {"up_from": 4, "down_to": 2}, "Score", 1),
    ],
)
def test_a_column_that_comes_again_in_another_case(
    record: dict[str, Any], options: dict[str, Any], name: str, other: Any
) -> None:
    read_name = name.lower()
    (found,) = read(record | {name: other}, **options).report.rejections
    assert f"{read_name} and {name} may both be meant" in found.reason
    assert read(record | {name: other}, **options, leave_out=name).up == 1
    assert read(record | {name: record[read_name]}, **options).up == 1


@pytest.mark.parametrize("name", ["label", "toxic"])
def test_true_means_what_the_options_say(name: str) -> None:
    options = ImportOptions(columns=f"label={name}", up_words="false", down_words="true")
    csv = BytesIO(f"prompt,completion,{name}\nQ,A,true\n".encode())
    for file, kind in ((csv, "a.csv"), (lines({"prompt": "Q", "completion": "A", name: True}), "a.jsonl")):
        found = preview_file(file, name=kind, options=options)
        assert (found.up, found.down) == (0, 1), kind
    assert read(KTO, up_words="1", down_words="0").up == 1
    (half,) = read(KTO | {"label": False}, up_words="true", down_words="no").report.rejections
    assert "not False" in half.reason


def test_a_message_with_two_texts() -> None:
    chat = [{"from": "human", "value": "Q", "content": ""}, {"from": "gpt", "value": "A", "content": None}]
    ((_, row),) = read({"conversations": chat, "kto_tag": True}).rows
    assert [turn.content for turn in row.turns] == ["Q", "A"]
    chat[0]["content"] = "Another"
    (found,) = read({"conversations": chat, "kto_tag": True}).report.rejections
    assert "conversations.0 has both content and value, which differ" in found.reason


def test_what_people_said_is_text_or_named_as_left_out() -> None:
    said = {"correction": [{"role": "assistant", "content": "B"}], "comment": 5, "tags": {"clear": True}}
    assert read(KTO | said).report.left_out == {"correction": 1, "comment": 1, "tags": 1}
    assert read(KTO | {"correction": "B", "comment": None, "tags": []}).report.left_out == {}
    assert read(KTO | {"tags": "[]"}).report.left_out == {}  # as our own CSV and JSON lines have none
