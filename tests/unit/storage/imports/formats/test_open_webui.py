"""The feedback of other chat applications as rows: Open WebUI and huggingface/feel."""

from datetime import UTC, datetime
from typing import Any

import pytest

from storage.errors import InvalidInput
from storage.imports.formats.table import named_format, rows_of
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped, ImportedRow
from tests.support.imported import convert, feel, left_out, open_webui, reason, row, short

# Open WebUI


def test_open_webui_feedback() -> None:
    found = row(
        open_webui(
            rating="-1",
            reason="not_factually_correct",
            comment="No.",
            tags=["science", "science"],
            details={"rating": 3},
        )
    )
    assert [turn.content for turn in found.turns] == ["Hi", "Second", "More", "Third"]
    assert found.label is False
    assert found.tags == ("not_factually_correct", "science", "rating:3")
    assert (found.comment, found.model) == ("No.", "llama3.2:1b")
    assert found.voted_at == datetime(2023, 11, 14, 22, 14, 20, tzinfo=UTC)
    plain = row(open_webui())
    assert (plain.label, plain.tags, plain.comment) == (True, (), None)


def test_open_webui_rates_the_message_that_meta_names_on_its_own_branch() -> None:
    record = open_webui()
    record["meta"]["message_id"] = "a1"
    assert short(convert(record)) == [("ua", "First", True)]


def test_open_webui_in_its_other_shapes() -> None:
    record = open_webui()
    inner = record["snapshot"]["chat"]["chat"]
    inner["params"] = {"system": "Be brief."}
    assert short(convert(record)) == [("suaua", "Third", True)]
    flat = record | {"snapshot": {"chat": {"id": "c1"}, "history": inner["history"]}}
    assert short(convert(flat)) == [("uaua", "Third", True)]
    inner["history"]["messages"] = list(inner["history"]["messages"].values())
    assert short(convert(record)) == [("suaua", "Third", True)]
    messages = inner["history"]["messages"]
    messages[-1]["content"] = (
        '<details type="reasoning" done="true">\n<summary>x</summary>\n> hm\n> </details>\n</details>\nThird'
        '\n<details type="tool_calls" done="true">\n<summary>x</summary>\n</details>'
    )
    assert short(convert(record)) == [("suaua", "Third", True)]
    assert row(record).turns[-1].reasoning == "hm\n</details>"


def test_sources_that_open_webui_found_are_named() -> None:
    record = open_webui()
    record["snapshot"]["chat"]["chat"]["history"]["messages"]["a2"]["sources"] = [{"document": ["x"]}]
    assert left_out(record) == ["messages[].sources"]
    assert left_out(open_webui()) == []


def test_open_webui_keeps_newer_replies_as_items() -> None:
    record = open_webui()
    messages = record["snapshot"]["chat"]["chat"]["history"]["messages"]
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Third!"}]},
    ]
    messages["a3"] |= {"content": "", "output": items}
    messages["a2"] |= {"content": "", "output": items[1:]}
    found = row(record)
    assert [turn.content for turn in found.turns] == ["Hi", "Third!", "More", "Third!"]
    assert found.turns[-1].reasoning == "hm"
    messages["a3"]["output"] = [{"type": "function_call", "name": "x"}]
    assert "a message has 'function_call' in its output" in reason(record)


@pytest.mark.parametrize("rating", [None, 0, "0", ""])
def test_open_webui_comments_without_a_thumb_are_dropped(rating: Any) -> None:
    assert convert(open_webui(rating=rating)) == [Dropped("feedback without a rating")]
    assert convert(open_webui() | {"type": "other"}) == [Dropped("feedback of the type 'other'")]


def test_bad_open_webui_feedback() -> None:
    assert "data.rating must be 1 or -1, not 5" in reason(open_webui(rating=5))
    assert "data.rating must be 1 or -1, not True" in reason(open_webui(rating=True))
    assert "meta must be an object, not null" in reason(open_webui() | {"meta": None})
    assert "meta.message_id is missing" in reason(open_webui() | {"meta": {}})
    assert "lacks the message 'zz'" in reason(open_webui() | {"meta": {"message_id": "zz"}})
    assert "snapshot holds no messages" in reason(open_webui() | {"snapshot": None})
    record = open_webui()
    messages = record["snapshot"]["chat"]["chat"]["history"]["messages"]
    messages["u1"]["parentId"] = "a3"
    assert "its own ancestor" in reason(record)
    messages["u1"]["parentId"] = None
    messages["a3"]["content"] = ""
    assert "the rated message is empty" in reason(record)
    record["meta"]["message_id"] = "u2"
    assert "must end with an assistant message" in reason(record)


# feel


def test_feel_gives_a_row_for_each_rated_reply() -> None:
    record = feel(
        ("system", "Be kind.", 0),
        ("user", "Hi", 0),
        ("assistant", "A", 1),
        ("user", "More", 0),
        ("assistant", "B", 0),
        ("user", "Again", 1),
        ("assistant", "C", -1),
    )
    assert short(convert(record)) == [("sua", "A", True), ("suauaua", "C", False)]
    first = convert(record)[0]
    assert isinstance(first, ImportedRow)
    assert first.voted_at == datetime(2025, 3, 1, 12, 0, 0, 500_000, UTC)


def test_a_reply_that_was_edited_in_feel_is_a_thumb_down_with_its_correction() -> None:
    record = feel(("user", "Hi", 0), ("assistant", "Better", 0))
    record["conversation"][1] |= {"chosen": "Better", "rejected": "Worse"}
    found = row(record)
    assert (found.turns[-1].content, found.label, found.correction) == ("Worse", False, "Better")


def test_feel_conversations_without_a_rating_are_dropped() -> None:
    assert convert(feel(("user", "Hi", 0), ("assistant", "A", 0))) == [
        Dropped("conversation without a rating")
    ]


def test_bad_feel_conversations() -> None:
    assert "must be 1, 0 or -1, not 4" in reason(feel(("user", "Hi", 0), ("assistant", "A", 4)))
    assert "rating must be a number" in reason(feel(("user", "Hi", 0), ("assistant", "A", "liked")))
    assert "must be the user's" in reason(feel(("system", "Hi", 0), ("assistant", "A", 1)))
    image = feel(("user", {"path": "x.png"}, 0), ("assistant", "A", 1))
    assert "conversation.0.content must be text, not an object" in reason(image)
    assert "timestamp is not a time" in reason(
        feel(("user", "Hi", 0), ("assistant", "A", 1), timestamp="now")
    )
    with pytest.raises(InvalidInput, match="conversation must be a list, not text"):
        list(rows_of(named_format("feel"), {"conversation": "x"}, ImportOptions()))
