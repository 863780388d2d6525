"""What the formats of data sets and tools make of their odder records."""

from typing import Any

import pytest

from storage.imports.formats.table import FORMATS
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import ImportedRow
from tests.support.imported import convert, left_out, lines, reason, row, rows_in, short

NONE = ImportOptions()


def sample(name: str, at: int = 0) -> dict[str, Any]:
    return dict(FORMATS[name].samples[at].record)


def ballots(record: dict[str, Any], options: ImportOptions = NONE) -> list[Any]:
    return [one.ballot for one in convert(record, options) if isinstance(one, ImportedRow)]


# Arenas


@pytest.mark.parametrize("winner", ["tie (bothbad)", "both_bad", "Tie (both bad)"])
def test_two_bad_replies_are_two_thumbs_down(winner: str) -> None:
    votes = short(convert(sample("arena") | {"winner": winner}))
    assert votes == [("ua", "The North Sea.", False), ("ua", "A lake.", False)]


def test_who_wins_an_arena() -> None:
    assert short(convert(sample("arena") | {"winner": "model_b"}))[1] == ("ua", "A lake.", True)
    assert short(convert(sample("arena") | {"winner": "tie"})) == ["a tie"]
    same = {"conversation_b": sample("arena")["conversation_a"]}
    assert short(convert(sample("arena") | same)) == ["both replies are the same"]
    good = short(convert(sample("arena") | {"winner": "both_good"}))
    assert [label for _, _, label in good] == [True, True]
    assert short(convert(sample("arena") | {"judge": "gpt4_pair"})) == ["judged by a model"]
    assert "winner must be model_a, model_b, tie or both_bad, not 'x'" in reason(
        sample("arena") | {"winner": "x"}
    )
    fifty = sample("arena", 3)
    assert short(convert(fifty)) == [("ua", "A lake.", False), ("ua", "The North Sea.", True)]
    assert short(convert(fifty | {"winner_model_b": 0, "winner_tie": 1})) == ["a tie"]
    assert "response_a must be a list of texts" in reason(fifty | {"response_a": "[null]"})


def test_mt_bench_judges_one_of_two_turns() -> None:
    more = [{"role": "user", "content": "More"}, {"role": "assistant", "content": "x"}]
    record = sample("arena") | {"turn": 1}
    record |= {name: [*record[name], *more] for name in ("conversation_a", "conversation_b")}
    assert short(convert(record))[0] == ("ua", "The North Sea.", True)
    assert short(convert(record | {"turn": 2}))[0] == ("uaua", "x", True)
    first, second = (ballots(record | {"turn": turn})[0] for turn in (1, 2))
    assert first != second  # one judge's votes on two turns are two votes


def test_tables_of_text_say_the_same() -> None:
    more = '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}'
    both = f"{more}, {more[1:]}]".replace('"', '""')
    other = both.replace('""b""', '""c""')
    table = f'question_id,winner,turn,conversation_a,conversation_b\n1,model_a,1,"{both}","{other}"\n'
    assert [one[0] for one in short(rows_in(table.encode())[0])] == ["ua", "ua"]
    tree = "message_id,parent_id,message_tree_id,role,text,rank,deleted\na,,a,prompter,Hi,,False\n"
    tree += "".join(f"r{n},a,a,assistant,R{n},{n},{n == 12}\n" for n in range(13))
    assert short(rows_in(tree.encode())[0]) == [("ua", "R0", True)]


def test_messages_of_an_arena_may_be_parts_or_json() -> None:
    said = [{"role": "user", "content": [{"type": "text", "text": "Hi", "image": None, "mimeType": None}]}]
    said.append({"role": "assistant", "content": [{"type": "text", "text": "Hello", "image": None}]})
    record = sample("arena") | {"conversation_a": said, "conversation_b": str(said)}
    record["conversation_b"] = record["conversation_b"].replace("Hello", "No")
    assert short(convert(record)) == [("ua", "Hello", True), ("ua", "No", False)]


# HelpSteer, Nectar, UltraFeedback


def test_preferences_of_helpsteer() -> None:
    record = sample("helpsteer-pairs")
    assert short(convert(record))[0] == ("ua", "The North Sea.", True)
    assert short(convert(record | {"overall_preference": 1}))[0] == ("ua", "The North Sea.", False)
    assert short(convert(record | {"overall_preference": 0})) == ["a tie"]
    weak = ImportOptions(min_margin=3)
    assert short(convert(record, weak)) == ["a preference weaker than 3"]
    each = convert(record, ImportOptions(raters="each"))
    assert [one[2] for one in short(each)] == [True, False, False, True]
    assert len({one.key for one in each if isinstance(one, ImportedRow)}) == 4
    assert short(convert(record, ImportOptions(raters="mean")))[0] == ("ua", "The North Sea.", True)
    assert short(convert(record, ImportOptions(raters="majority"))) == ["a tie"]
    two = {"prompt": "Hi", "response_1": "A", "response_2": "B", "preference_strength": 2}
    assert short(convert(two)) == [("ua", "A", False), ("ua", "B", True)]


def test_scores_of_ultrafeedback() -> None:
    record = sample("ultrafeedback")
    bounds = {"up_from": 4, "down_to": 2}
    assert short(convert(record)) == [("sua", "Iron.", True), ("sua", "Wood.", False)]
    overall = ImportOptions(score_column="overall_score", **bounds)
    assert short(convert(record, overall))[1] == ("sua", "Wood.", True)
    bare = [{key: value for key, value in one.items() if "score" not in key} for one in record["completions"]]
    assert short(convert(record | {"completions": bare})) == [
        ("sua", "Iron.", True),
        "a reply without a rating",
    ]
    assert left_out(record) == ["correct_answers", "overall_score"]
    text = sample("distilabel") | {"ratings": ["5", "N/A"]}
    assert short(convert(text)) == [("ua", "Iron.", True), "a reply without a rating"]
    assert "There are 2 generations, 1 ratings" in reason(text | {"ratings": [1]})


# OASST


def oasst(*ranks: int | None, **more: Any) -> list[dict[str, Any]]:
    first, reply, _ = sample("oasst")["rows"]
    return [first] + [
        reply | {"message_id": f"r{at}", "text": f"{at}", "rank": rank, **more}
        for at, rank in enumerate(ranks)
    ]


def test_trees_of_oasst_are_gathered_from_rows() -> None:
    trees = [*oasst(1, 0, 2), *({**one, "message_tree_id": "t2"} for one in oasst(0))]
    found, report = rows_in(lines(*trees).read())
    assert short(found) == [("ua", "1", True), ("ua", "2", False)]
    assert report.records == 6
    assert report.dropped == {
        "ranked in between": 1,
        "a reply that was ranked alone": 1,
        "a tree without a rated reply": 1,
    }
    with pytest.raises(Exception, match="line 1: the tree lacks the message 'a'"):
        rows_in(lines(*trees[1:]).read())


def test_emojis_and_qualities_of_oasst() -> None:
    emojis = {"name": ["+1", "-1", "red_flag"], "count": [3, 1, 1]}
    labels = {"name": ["quality", "toxicity"], "value": [0.9, 0.1], "count": [3, 3]}
    record = {"rows": oasst(0, emojis=emojis, labels=labels)}
    thumbs = convert(record, ImportOptions(score_column="emojis"))
    assert [one.label for one in thumbs if isinstance(one, ImportedRow)] == [True, True, True, False]
    assert len({one.key for one in thumbs if isinstance(one, ImportedRow)}) == 4
    two = {"rows": oasst(0, 1, emojis=emojis)}
    assert left_out(two, NONE) == ["emojis"]
    quality = ImportOptions(score_column="quality", up_from=0.7, down_to=0.3)
    assert short(convert(record, quality)) == [("ua", "0", True)]
    assert "score_column must be rank, emojis or quality" in reason(record, ImportOptions(score_column="x"))
    deleted = {"rows": oasst(0, 1, deleted=True)}
    assert short(convert(deleted, NONE)) == ["a tree without a rated reply"]


# Argilla and Label Studio


def test_answers_of_argilla() -> None:
    flat = sample("argilla")
    assert ballots(flat, ImportOptions(up_from=4, down_to=2)) == [("r1", "u1"), ("r1", "u2")]
    assert "Scores need up_from" in reason(flat, NONE)
    two = flat | {"tone.responses": ["good"], "tone.responses.status": ["submitted"]}
    assert "quality and tone may both be the vote; say which it is: score_column=quality" in reason(two)
    chosen = ImportOptions(score_column="tone")
    assert short(convert(two, chosen)) == [("ua", "Tower Bridge.", True)]
    assert left_out(two, chosen) == ["quality.responses"]
    assert short(convert(flat | {"status": "discarded"})) == ["a record that is discarded or a draft"]
    text = flat | {"quality.responses": ["5", "1.0", "3"], "quality.responses.status": ["submitted"] * 3}
    bounds = ImportOptions(up_from=4, down_to=2)
    assert [one if isinstance(one, str) else one[2] for one in short(convert(text, bounds))] == [
        True,
        False,
        "quality is between 2 and 4",
    ]
    none = flat | {"quality.responses.status": ["draft", "discarded", "draft"]}
    assert short(convert(none)) == ["a record without a submitted answer"]
    majority = ImportOptions(up_from=4, down_to=2, raters="majority")
    assert short(convert(flat | {"quality.responses": [5, 1, 1]}, majority)) == [
        "as many people for as against"
    ]
    nested = sample("argilla", 1)
    assert ballots(nested) == [("r1", "u1"), ("r1", "u2")]
    named = nested | {"fields": {"q": "Hi", "a": "Hello"}}
    options = ImportOptions(columns="prompt=q,reply=a")
    assert short(convert(options.renamed(named), options))[0] == ("ua", "Hello", True)


def test_annotations_of_label_studio() -> None:
    pair = sample("label-studio")
    assert ballots(pair) == [("1/left", "7"), ("1/right", "7")]
    for left, right in (
        ("response1", "response2"),
        ("left", "right"),
        ("reply-A", "reply-B"),
        ("text_0", "text_1"),
    ):
        data = {"prompt": "Hi", left: "A", right: "B"}
        assert short(convert(pair | {"data": data})) == [("ua", "A", True), ("ua", "B", False)]
    named = pair | {"data": {"ask": "Hi", "first": "A", "second": "B"}}
    assert "its columns are 'ask', 'first', 'second'" in reason(named)
    options = ImportOptions(columns="prompt=ask,left=first,right=second")
    assert short(convert(options.renamed(named), options)) == [("ua", "A", True), ("ua", "B", False)]
    choice = sample("label-studio", 2)
    assert row(choice).label is True
    several = choice | {"annotations": [{"result": [{"value": {"choices": ["Good", "Kind"]}}]}]}
    assert "must be true (up) or false (down), not a list" in reason(several)
    both = [{"from_name": name, "value": {"rating": stars}} for name, stars in (("help", 5), ("tone", 1))]
    two = choice | {"annotations": [{"completed_by": 1, "result": both}]}
    assert "help and tone may both be the vote; say which it is: score_column=help" in reason(two)
    tone = ImportOptions(score_column="tone", up_from=4, down_to=2)
    assert short(convert(two, tone)) == [("ua", "Tower Bridge.", False)]
    assert left_out(two, tone) == ["annotations[].help"]
    for none in ([], [{"was_cancelled": True, "result": [{"value": {"rating": 1}}]}]):
        assert short(convert(choice | {"annotations": none})) == ["a task without a submitted annotation"]


# Traces


def test_scores_of_traces() -> None:
    trace = sample("langfuse")
    assert ballots(trace) == [("t1", "u1")]
    more = trace | {
        "scores": [*trace["scores"], {"name": "tone", "value": 4, "dataType": "NUMERIC", "source": "API"}]
    }
    assert "thumb and tone may both be the vote" in reason(more)
    tone = ImportOptions(score_column="tone", up_from=4, down_to=2)
    assert short(convert(more, tone))[-1] == ("ua", "Tango.", True)
    assert "input has the text under no usual name (a, b)" in reason(trace | {"input": {"a": "x", "b": "y"}})
    mlflow = sample("mlflow")
    assert ballots(mlflow) == [("t1", "u1")]
    assert "export it with its data, not its previews" in reason(mlflow | {"data": {}})
