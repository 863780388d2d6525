"""Identical texts: repeated votes, votes that contradict each other, and pairs, on both engines."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.db.database import Database
from storage.examples.duplicates import Contradictions, TextCounts, digest
from storage.exports.exporter import Export
from storage.exports.plan import ExportPlan
from tests.support.rated_store import SALT, exported_rows
from tests.support.rows import rate

messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=5)}),
    max_size=3,
)


@given(one=messages, other=messages, tail=messages)
def test_only_equal_texts_have_equal_digests(
    one: list[dict[str, str]], other: list[dict[str, str]], tail: list[dict[str, str]]
) -> None:
    assert (digest(one, tail) == digest(other, tail)) == (one == other)
    if tail:
        assert digest([*one, *tail]) != digest(one, tail)


@pytest.fixture
def store(database: Database) -> Database:
    """Texts: A has 2 ups and 1 down, B 1 and 1, C 2 ups, D 1 down."""
    with database.write() as session:
        for answer, labels in {"A": "uud", "B": "ud", "C": "uu", "D": "d"}.items():
            for label in labels:
                rate(session, "Which?", {answer: label == "u"})
    return database


def exported(database: Database, **plan: Any) -> tuple[str, dict[str, Any]]:
    rows = [
        row["completion"][0]["content"] + ("+" if row["label"] else "-")
        for row in exported_rows(database, **plan)
    ]
    with database.read() as session:
        export = Export(session, ExportPlan(**plan), salt=SALT)
        list(export.chunks())
        return " ".join(rows), export.manifest()


@pytest.mark.parametrize(
    ("plan", "rows", "dropped"),
    [
        ({}, "A+ A+ A- B+ B- C+ C+ D-", 0),
        ({"duplicates": "drop"}, "A+ A- B+ B- C+ D-", 0),
        ({"contradictions": "drop"}, "C+ C+ D-", 5),
        ({"contradictions": "majority"}, "A+ A+ C+ C+ D-", 3),
        ({"contradictions": "majority", "duplicates": "drop"}, "A+ C+ D-", 3),
    ],
)
def test_duplicates_and_contradictions(
    store: Database, plan: dict[str, Any], rows: str, dropped: int
) -> None:
    found, manifest = exported(store, **plan)
    assert found == rows
    assert manifest["contradictory_votes_dropped"] == dropped
    # Reported whatever was chosen.
    assert (manifest["contradictory_texts"], manifest["contradictory_votes"]) == (2, 5)
    assert manifest["duplicate_votes"] == (1 if plan.get("contradictions") == "drop" else 2)


def test_the_same_answer_to_another_question_is_another_text(database: Database) -> None:
    with database.write() as session:
        rate(session, "One?", {"Yes.": True})
        rate(session, "Two?", {"Yes.": False})
        rate(session, "One?", {"Yes.": False}, system_prompt="Be terse.")
    assert exported(database)[1]["contradictory_texts"] == 0


@given(
    votes=st.lists(st.tuples(st.sampled_from("ABC"), st.booleans()), max_size=20),
)
def test_counts_are_the_counts(votes: list[tuple[str, bool]]) -> None:
    from datetime import UTC, datetime

    from storage.examples.example import Example

    counts = TextCounts()
    try:
        kept = [
            Example(
                [], [{"role": "assistant", "content": text}], label, "", "", "", None,
                datetime.now(UTC), [], None, "web", None,
            )
            for text, label in votes
        ]  # fmt: skip
        for example in kept:
            counts.add(example)
        expected = Counter(votes)
        for example in kept:
            text = example.completion[0]["content"]
            assert counts.of(example) == (expected[text, True], expected[text, False])
    finally:
        counts.close()


def pairs(database: Database, **plan: Any) -> list[str]:
    return [
        row["chosen"][0]["content"] + row["rejected"][0]["content"]
        for row in exported_rows(database, shape="pairs", **plan)
    ]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("A+", []),
        ("A+ B+", []),
        ("A+ B-", ["AB"]),
        ("B- A+", ["AB"]),
        ("A+ B- C- D-", ["AB", "AC", "AD"]),
        ("A+ B+ C- D+ E-", ["AC", "BE", "DC"]),
        ("A+ A- B-", []),
        ("A+ A- B- C+", ["CB"]),
        ("A+ A+ B- B-", ["AB"]),
    ],
)
def test_pairs_use_every_reply_that_is_plainly_up_or_down(
    database: Database, answers: str, expected: list[str]
) -> None:
    with database.write() as session:
        for answer in answers.split():
            rate(session, "Which?", {answer[0]: answer[1] == "+"})
        rate(session, "Another?", {"X": True})
    assert pairs(database) == expected


@pytest.mark.parametrize(
    ("contradictions", "expected"), [("keep", ["CD"]), ("drop", ["CD"]), ("majority", ["AD", "CD"])]
)
def test_pairs_follow_the_choice_about_contradictions(
    store: Database, contradictions: Contradictions, expected: list[str]
) -> None:
    assert pairs(store, contradictions=contradictions) == expected


def test_a_correction_is_chosen_over_what_it_corrects(database: Database) -> None:
    with database.write() as session:
        rate(session, "2 + 2?", {"5": False}, correction="4")
    assert pairs(database) == []
    assert pairs(database, corrections=True) == ["45"]


def test_pairs_come_in_the_order_of_each_prompts_first_vote(database: Database) -> None:
    with database.write() as session:
        for number in range(120):
            rate(session, f"Question {number}?", {f"up {number}": True})
        for number in reversed(range(120)):
            rate(session, f"Question {number}?", {f"down {number}": False})
    assert pairs(database) == [f"up {number}down {number}" for number in range(120)]
