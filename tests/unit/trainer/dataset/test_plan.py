"""What a run needs, what it reports before it starts, and which rows contradict each other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from storage.errors import InvalidInput
from storage.settings import Settings
from tests.support.examples import example
from trainer.dataset.plan import Readiness, check_readiness, plan_training
from trainer.dataset.split import REASON, without_contradictions
from trainer.dataset.tokenise import LeftOut, TokenisedExample, tokenise
from trainer.offline.rows import read_rows
from trainer.text import spoken

FORMATS = Path(__file__).parents[3] / "fixtures" / "formats"


def row(name: str, label: bool, text: str | None = None, weight: float = 1.0) -> TokenisedExample:
    rated = example(answer=text or name, label=label, message_id=name, chat_id=name)
    return TokenisedExample(rated, [1] * 6, [2, 2, 2, sum((text or name).encode())], weight)


ROWS = [row(str(number), number % 3 != 0) for number in range(9)]


def test_the_plan_lists_everything_before_the_start() -> None:
    dropped = LeftOut()
    for number in range(7):
        dropped.add("the reply is empty", f"line {number}")
    plan = plan_training(ROWS, dropped, Settings(batch_size=4, epochs=2), held_out=5)
    assert plan.lines() == [
        "Left out 7, because the reply is empty: line 0, line 1, line 2, line 3, line 4 and 2 more.",
        "9 examples to train on (6 up, 3 down), 5 held out; weights 0.853 up, 1.293 down.",
        "6 steps of 4 examples, 90 tokens an epoch.",
    ]
    kept = plan.to_metrics()
    assert kept["dropped"] == {"the reply is empty": 7}
    assert kept["plan"]["dropped_rows"] == {"the reply is empty": [f"line {number}" for number in range(5)]}
    assert (kept["plan"]["rows"], kept["plan"]["held_out"], kept["plan"]["steps"]) == (9, 5, 6)


@pytest.mark.parametrize(
    ("rows", "batch_size", "accumulation", "epochs", "steps"),
    [(9, 4, 1, 1.0, 3), (8, 4, 1, 1.0, 2), (9, 2, 2, 1.0, 3), (9, 4, 1, 0.5, 2), (9, 4, 8, 3.0, 3)],
)
def test_steps_are_counted_as_transformers_does(
    rows: int, batch_size: int, accumulation: int, epochs: float, steps: int
) -> None:
    settings = Settings(batch_size=batch_size, gradient_accumulation=accumulation, epochs=epochs)
    assert plan_training(ROWS[:rows], LeftOut(), settings).steps == steps


def test_processes_make_larger_steps_but_none_is_without_work() -> None:
    settings = Settings(batch_size=2, gradient_accumulation=2, epochs=2)
    two = plan_training(ROWS, LeftOut(), settings, processes=2)
    assert (two.steps, two.rows_per_step) == (4, 8), "five micro-batches are three turns, hence two steps"
    assert "4 steps of 8 examples (2 processes together), 90 tokens an epoch." in two.lines()
    many = plan_training(ROWS, LeftOut(), settings, processes=9)
    assert (many.processes, many.steps) == (5, 2)
    assert many.to_metrics()["plan"]["processes"] == 5


def test_tokens_beyond_the_limit_are_not_trained_on() -> None:
    assert plan_training(ROWS, LeftOut(), Settings(max_length=8)).tokens == 9 * 8


def test_rows_count_with_their_own_weights() -> None:
    light = [row("a", True, weight=0.5), row("b", True, weight=0.5), row("c", False)]
    weights = plan_training(light, LeftOut(), Settings()).weights
    assert weights.desirable == weights.undesirable == 1


def test_one_of_anything_is_not_several() -> None:
    plan = plan_training(ROWS[:4], LeftOut(), Settings(batch_size=4))
    assert plan.lines()[-1] == "1 step of 4 examples, 40 tokens an epoch."
    with pytest.raises(InvalidInput, match="^1 example can be trained on, all thumbs down, and"):
        plan_training(ROWS[:1], LeftOut(), Settings())


def test_less_than_a_micro_batch_is_reported() -> None:
    lines = plan_training(ROWS[:3], LeftOut(), Settings(batch_size=4)).lines()
    assert any("less than a micro-batch of 4" in line for line in lines)
    lines = plan_training(ROWS[:4], LeftOut(), Settings(batch_size=4)).lines()
    assert not any("micro-batch" in line for line in lines)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [([], "no examples that"), ([row("a", True)], "all thumbs up"), ([row("a", False)], "all thumbs down")],
)
def test_one_kind_alone_is_refused(rows: list[TokenisedExample], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        plan_training(rows, LeftOut(), Settings())


def test_contradictions_are_settled_by_the_larger_kind_and_ties_by_none() -> None:
    given = [
        *(row("1", True, "tie"), row("2", False, "tie"), row("3", True, "most"), row("4", False, "most")),
        *(row("5", True, "most"), row("6", True, "same"), row("7", True, "same")),
    ]
    dropped = LeftOut()
    kept = without_contradictions(given, dropped, 64)
    assert [one.example.message_id for one in kept] == ["3", "5", "6", "7"]
    assert dropped == {REASON: 3}
    assert dropped.names == {REASON: ["1 (unlike 2)", "2 (unlike 1)", "4 (unlike 3)"]}


def test_rows_that_are_the_same_once_cut_contradict_each_other() -> None:
    def long(name: str, label: bool, end: int) -> TokenisedExample:
        return replace(row(name, label), completion_ids=[*range(10, 20), end])

    given = [long("1", True, 1), long("2", False, 2), long("3", True, 3), row("4", True)]
    dropped = LeftOut()
    assert [one.example.message_id for one in without_contradictions(given, dropped, 16)] == ["1", "3", "4"]
    reason = "cut to 16 tokens it is a reply to the same prompt that is rated the other way at least as often"
    assert dropped.names == {reason: ["2 (unlike 1)"]}
    assert len(without_contradictions(given, LeftOut(), 17)) == 4, "the last token is trained on"
    plan = plan_training(given, LeftOut(), Settings(max_length=16, batch_size=4))
    assert (plan.cut, plan.to_metrics()["plan"]["cut"]) == (3, 3)
    assert "The end of 3 examples is cut off: too long for a row." in plan.lines()


def test_rows_of_a_file_that_differ_behind_the_cut_are_left_out(tiny_model: Path) -> None:
    rows = read_rows(FORMATS / "kto_same_after_cut.jsonl").examples
    tokenised, dropped = tokenise(AutoTokenizer.from_pretrained(tiny_model), rows, max_length=1024)
    assert without_contradictions(tokenised, dropped, 1024) == []
    assert dropped.names == {
        "cut to 1024 tokens it is a reply to the same prompt that is rated the other way at least as often": [
            "line 1 (unlike line 2)",
            "line 2 (unlike line 1)",
        ]
    }


def test_durations_in_the_unit_that_fits() -> None:
    assert [spoken(seconds) for seconds in (0.4, 89, 600, 7200)] == ["a second", "89 s", "10 min", "2.0 h"]


def check(ups: int, downs: int, voters: int, rows: int, **changes: int) -> Readiness:
    chosen: dict[str, Any] = {"min_votes_per_class": 5, "min_voters": 2, "max_length": 1024} | changes
    return check_readiness(
        ups=ups, downs=downs, voters=voters, trainable_rows=rows, settings=Settings(**chosen)
    )


def test_enough_of_everything() -> None:
    reason = "Ready: 12 thumbs up and 5 thumbs down from 3 people, 14 examples to train on."
    assert check(12, 5, 3, 14) == Readiness(True, reason)


@pytest.mark.parametrize(
    ("counts", "reasons"),
    [
        ((0, 0, 2, 0), ["5 more up and 5 more down", "THUMBLOOP_MIN_VOTES_PER_CLASS"]),
        ((4, 9, 2, 13), ["1 more up and 0 more down"]),
        ((9, 1, 2, 10), ["0 more up and 4 more down"]),
        ((9, 9, 1, 15), ["votes from 1 person, but a run needs at least 2", "THUMBLOOP_MIN_VOTERS"]),
        ((1, 0, 1, 1), ["1 thumb up and 0 thumbs down", "votes from 1 person"]),
        ((6, 6, 2, 0), ["longer than 1024 tokens"]),
        ((6, 6, 2, 1), ["longer than 1024 tokens"]),
    ],
)
def test_each_lack_is_named_with_a_remedy(counts: tuple[int, int, int, int], reasons: list[str]) -> None:
    found = check(*counts)
    assert not found.ready
    assert all(reason in found.reason for reason in reasons)


@pytest.mark.parametrize("limit", [1, 2, 20])
def test_the_limits_themselves_are_enough(limit: int) -> None:
    assert check(limit, limit, limit, 2 * limit, min_votes_per_class=limit, min_voters=limit).ready
