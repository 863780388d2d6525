"""Several people's votes on one reply, and one person's later vote: counted as they were given."""

from typing import Any

import pytest

from storage.chats.votes import count_votes
from storage.db.database import Database
from storage.imports.importer import BATCH, import_file
from storage.imports.preview import preview_file
from storage.imports.rows.options import ImportOptions
from tests.support.imported import counts, exported, lines, open_webui

KTO: dict[str, Any] = {"prompt": "Hi", "completion": "Hello", "label": True}
REPEATED, REPLACED = "the same row again in this file", "a vote that the same person changed later"


def votes_in(database: Database) -> tuple[int, int]:
    with database.read() as session:
        found = count_votes(session)
    return found.up, found.down


def test_three_people_up_and_one_down_are_four_votes(database: Database) -> None:
    rows = [KTO | {"annotator": name, "label": name != "d"} for name in "abcd"]
    rows[0]["reviewer_name"] = "Ada"  # the other column comes first
    assert counts(import_file(database, lines(*rows))) == (4, 0, 0, 0)
    assert votes_in(database) == (3, 1)
    assert counts(import_file(database, lines(*rows))) == (0, 4, 0, 0)
    report = import_file(database, lines(*rows[:2], KTO | {"annotator": "e"}, KTO | {"annotator": "e"}))
    assert counts(report) == (1, 2, 1, 0)
    assert report.dropped == {REPEATED: 1}


@pytest.mark.parametrize("name", ["annotatorId", "WorkerId", "crowd_worker_id", "Reviewer Name", "coder"])
def test_who_voted_may_stand_in_a_column_of_many_names(database: Database, name: str) -> None:
    rows = [KTO | {name: "a"}, KTO | {name: "b"}]
    assert counts(import_file(database, lines(*rows))) == (2, 0, 0, 0)


@pytest.mark.parametrize("name", ["updated_at", "created_at", "timestamp", "annotated_at"])
def test_the_later_vote_of_a_person_is_told_by_its_time(database: Database, name: str) -> None:
    votes = [KTO | {"rater": "a", "label": day == 2, name: f"2026-01-0{day}"} for day in (2, 1)]
    assert import_file(database, lines(*votes)).dropped == {REPLACED: 1}
    assert votes_in(database) == (1, 0)
    unread = import_file(database, lines(KTO | {"rater": "b", name: "last week"}))
    assert (unread.accepted, dict(unread.left_out)) == (1, {name: 1})


@pytest.mark.parametrize("mark", [{"status": "Discarded"}, {"was_cancelled": True}, {"deleted": "True"}])
def test_a_vote_that_was_not_submitted_is_none(database: Database, mark: dict[str, Any]) -> None:
    pair = {"prompt": "Hi", "chosen": "Hello", "rejected": "No"}
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    for record in (KTO, pair, chat | {"label": True}):
        report = import_file(database, lines(record | mark))
        assert (report.accepted, report.rejected, bool(report.dropped)) == (0, 0, True)
    submitted = import_file(database, lines(KTO | {"status": "submitted", "deleted": False}))
    assert submitted.accepted == 1


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("apart", [0, BATCH])
def test_one_person_s_later_vote_replaces_the_earlier(database: Database, skip_bad: bool, apart: int) -> None:
    between = [KTO | {"prompt": f"{n}", "user_id": "other"} for n in range(apart)]
    first = KTO | {"user_id": "ann", "message_id": "m1", "voted_at": "2026-01-02"}
    second = first | {"label": False, "voted_at": "2026-01-03"}
    other = first | {"message_id": "m2"}
    for rows in ([first, *between, second, other], [second, *between, first, other]):
        report = import_file(database, lines(*rows), skip_bad=skip_bad)
        assert report.dropped == {REPLACED: 1}
        assert votes_in(database) == (apart + 1, 1)
    again = import_file(database, lines(first | {"voted_at": "2026-01-04"}))
    assert (again.accepted, again.changed, again.duplicates) == (0, 1, 0)
    assert votes_in(database) == (apart + 2, 0)
    assert exported(database, ("voted_at",))[-1]["voted_at"].startswith("2026-01-04")
    undated = import_file(database, lines(second | {"voted_at": None}))
    assert (undated.changed, undated.duplicates, sum(undated.dropped.values())) == (0, 0, 1)
    assert "without a time" in next(iter(undated.dropped))


def test_an_export_of_open_webui_that_grew_brings_what_is_new(database: Database) -> None:
    down = open_webui(rating=-1, details={"rating": 9}, reason="too_verbose")
    up = open_webui(rating=1, details={"rating": 9}, reason="too_verbose") | {
        "id": "f2",
        "updated_at": 1_700_000_900,
    }
    assert counts(import_file(database, lines(down))) == (1, 0, 0, 0)
    assert votes_in(database) == (0, 1)
    report = import_file(database, lines(down, up, up | {"user_id": "else"}))
    assert (report.accepted, report.changed, report.dropped) == (1, 1, {REPLACED: 1})
    assert votes_in(database) == (2, 0)
    assert [row["tags"] for row in exported(database, ("tags",))] == ['["rating:9"]'] * 2 or [
        row["tags"] for row in exported(database, ("tags",))
    ] == [["rating:9"]] * 2


def test_rows_of_people_known_by_text_before_are_not_imported_again(database: Database) -> None:
    # What 0.1 before this change stored: a row of the same format, known by its text alone.
    import_file(database, lines(KTO))
    assert counts(import_file(database, lines(KTO | {"annotator": "a"}))) == (0, 1, 0, 0)


@pytest.mark.parametrize("raters", ["mean", "majority"])
def test_votes_in_rows_of_their_own_are_taken_together(raters: str) -> None:
    votes = {"A": {"a": True, "b": True, "c": False}, "B": {"a": True, "b": False}, "C": {"": False}}
    rows = [
        KTO | {"completion": reply, "label": label, "annotator": person, "comment": person}
        for reply, given in votes.items()
        for person, label in given.items()
    ]
    rows.append(rows[2] | {"label": False})  # the same person again
    rows.append(KTO | {"completion": "A", "label": False, "judged_by": "gpt-x"})  # no person
    found = preview_file(lines(*rows), options=ImportOptions(raters=raters))
    said = [(row.turns[-1].content, row.label, row.comment) for _, row in found.rows]
    assert said == [("A", True, None), ("C", False, None), ("A", False, None)]
    assert found.report.dropped == {
        REPLACED: 1,
        f"a vote that counts in the {raters} of those on the same reply": 3,
        "as many people for as against": 1,
    }


def test_scores_in_rows_of_their_own_give_one_by_their_mean_or_majority() -> None:
    scores = [("A", 5), ("A", 3), ("A", 4), ("B", 1), ("B", 3), ("C", 3)]
    rows = [{"prompt": "Q", "response": reply, "rating": score} for reply, score in scores]
    for raters, dropped in (
        ("mean", "their mean is between 2 and 4"),
        ("majority", "rating is between 2 and 4"),
    ):
        options = ImportOptions(raters=raters, up_from=4, down_to=2)
        found = preview_file(lines(*rows), options=options)
        assert [(row.turns[-1].content, row.label) for _, row in found.rows] == [("A", True), ("B", False)]
        assert found.report.dropped[dropped] == (1 if raters == "mean" else 3)
