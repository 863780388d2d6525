"""The rule of columns: what may change what the model read or what is judged is used, refused or named."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from storage.errors import InvalidInput
from storage.imports.formats.table import FORMATS, rows_of, sniff
from storage.imports.rows.fields import is_full, is_harmless
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import LeftOutColumn
from tests.support.imported import THRESHOLDS, convert, left_out, lines, reason, row, rows_in, short

KTO: dict[str, Any] = {"prompt": "Hi", "completion": "Hello", "label": True}
PAIR: dict[str, Any] = {"prompt": "Hi", "chosen": "Hello", "rejected": "No"}
RATED: dict[str, Any] = {"prompt": "Hi", "response": "Hello", "score": 5}
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
NAMES = (
    "input instruction question query history context system system_prompt tools images tool_calls weight "
    "reasoning_content answer output reference gold score rating helpfulness label kto_tag messages "
    "conversations correction comment tags status chosen rejected annotator note rationale completion "
    "response score_chosen rating_rejected System chat_history metadata is_tie annotatorId created_at deleted"
)
CELLS = some.one_of(
    some.text(max_size=9),
    some.booleans(),
    some.integers(-2, 6),
    some.none(),
    some.just([]),
    some.just([{"role": "user", "content": "Other"}, {"role": "assistant", "content": "Words"}]),
    some.lists(some.text(max_size=5), max_size=2),
    some.just({"system": "Be brief.", "id": 3}),
)


@settings(deadline=None, max_examples=300)
@given(
    base=some.sampled_from([KTO, PAIR, RATED]),
    more=some.dictionaries(some.sampled_from(NAMES.split()), CELLS, min_size=1, max_size=3),
)
def test_every_column_is_used_or_refused_or_named(base: dict[str, Any], more: dict[str, Any]) -> None:
    record = {**more, **base}
    try:
        known = sniff(record, THRESHOLDS)
        assert known is not None
        found = list(rows_of(known, record, THRESHOLDS))
    except InvalidInput:
        return
    named = {one.name for one in found if isinstance(one, LeftOutColumn)}
    rows = [one for one in found if not isinstance(one, LeftOutColumn)]
    for name in record.keys() - named:
        if not is_full(record[name]) or name in known.ignores or is_harmless(name):
            continue
        without = {key: value for key, value in record.items() if key != name}
        changed = [record | {name: cell} for cell in (None, "other words", 1.5, False, 0, [["a", "b"]])]
        assert any(_outcome(other) != rows for other in [without, *changed]), f"{name} is passed over"


def _outcome(record: dict[str, Any]) -> Any:
    try:
        return convert(record)
    except (InvalidInput, AssertionError) as error:
        return str(error)


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("tools", [{"type": "function"}]),
        ("tools", "a hammer"),
        ("tool_calls", [{"name": "weather"}]),
        ("images", ["a.png"]),
        ("context", "The Elbe is a river."),
        ("history", "Hi there"),
        ("documents", ["x"]),
        ("System", "Be brief."),
        ("system_instruction", "Be brief."),
        ("chat_history", [["Hi", "Hello"]]),
        ("retrieved_docs", ["x"]),
        ("image_path", "a.png"),
        ("conversations", [{"role": "user", "content": "before"}]),
    ],
)
def test_what_the_model_may_have_read_is_refused_unless_left_out(name: str, cell: Any) -> None:
    for base in (KTO, PAIR, RATED):
        assert f"leave_out={name}" in reason(base | {name: cell})
        chosen = ImportOptions(up_from=4, down_to=2, leave_out=f"other, {name}")
        assert convert(base | {name: cell}, chosen) == convert(base)
        assert left_out(base | {name: cell}, chosen) == [name]
        for empty in (None, "", [], "[]"):
            assert left_out(base | {name: empty}) == []


def test_columns_that_compete_are_asked_about() -> None:
    assert "answer may both be the reply; say which it is: columns=reply=response" in reason(
        RATED | {"answer": "Gold"}
    )
    assert "prompt and question may both be the prompt" in reason(KTO | {"question": "Else"})
    assert row(KTO | {"question": "Hi"}).label is True  # both say the same
    assert "score and rating may both be the score" in reason(RATED | {"rating": 1})
    assert "label and kto_tag may both be the label" in reason(KTO | {"kto_tag": False})


def test_a_word_such_as_none_is_a_reply() -> None:
    assert "answer may both be the reply" in reason(
        {"prompt": "Prints?", "response": "None", "answer": "[1]", "score": 5}
    )
    assert row(KTO | {"completion": "[]"}).turns[-1].content == "[]"


def test_names_of_columns_in_a_report_are_bounded() -> None:
    _, report = rows_in(lines(*(KTO | {f"c{n}": 1} for n in range(150))).read())
    assert (len(report.left_out), report.left_out["other columns"]) == (101, 50)


def test_a_prompt_beside_a_whole_conversation_must_be_in_it() -> None:
    chat = {"messages": CHAT, "label": True}
    assert left_out(chat | {"prompt": "Hi"}) == []
    assert "prompt is not a user message of the conversation in messages" in reason(chat | {"prompt": "Else"})


def test_what_is_named_says_how_the_model_or_a_judge_saw_it() -> None:
    assert left_out(KTO | {"score": 3, "note": "x", "id": 7, "created_at": "2026", "model": "m"}) == [
        "score",
        "note",
    ]
    held = {"id": 1, "system": "Be brief.", "tools": []}
    assert left_out(KTO | {"metadata": held}) == ["metadata.system"]
    message = {"role": "assistant", "content": "Hello", "weight": 0, "num_tokens": 3}
    assert left_out(KTO | {"completion": [message]}) == ["completion[].weight"]
    assert "each call must name its function" in reason(
        KTO | {"completion": [message | {"tool_calls": [{}]}]}
    )


def test_columns_of_your_own() -> None:
    mine = {"q": "Hi", "a": "Hello", "ok": "good", "gold": "Good day", "who": "ann", "prompt": "old"}
    options = ImportOptions(columns="prompt=q, reply=a,label=ok,reference=gold,person=who")
    renamed = options.renamed(mine)
    assert short(convert(renamed, options)) == [("ua", "Hello", True)]
    assert left_out(renamed, options) == ["reference", "prompt*"]
    assert row(renamed, options).ballot == ("", "ann")
    for wrong, why in (
        ("prompt", "is not MEANING=COLUMN"),
        ("words=q", "the meanings are prompt, reply"),
        ("prompt=q,prompt=a", "twice"),
        ("prompt=nowhere", "There is no column 'nowhere', which columns names; the columns are 'q', 'a'"),
    ):
        with pytest.raises(InvalidInput, match=why):
            ImportOptions(columns=wrong).renamed(mine)
    scored = ImportOptions(columns="prompt=q,reply=a,score=stars", up_from=4, down_to=2)
    found = convert(scored.renamed({"q": "Hi", "a": "Hello", "stars": "5", "helpfulness": 1}), scored)
    assert short(found) == [("ua", "Hello", True)]


def test_a_missing_prompt_says_which_columns_there_are() -> None:
    said = reason({"ask": "Hi", "completion": "Hello", "label": True})
    assert (
        "prompt is missing: the columns are 'ask', 'completion', 'label'; name yours with columns=prompt=…"
        in said
    )


def test_a_column_that_is_null_everywhere_picks_no_format() -> None:
    nulls = {"chosen": None, "rejected": None, "data": None, "meta": None}
    known = sniff(KTO | nulls, ImportOptions())
    assert known is FORMATS["kto"]
    assert sniff({"completion": None, "label": None, "messages": None}, ImportOptions()) is None
