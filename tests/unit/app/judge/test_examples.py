"""Pairs and KTO rows of judged replies, and what TRL makes of them."""

from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from app.judge.examples import kto_rows, pair_rows, scores
from app.judge.pool import write_lines
from tests.support.trl_data import Template

PROMPT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]


def rated(*ratings: float | None, scale: tuple[int, int] = (1, 5), number: int = 0) -> dict[str, Any]:
    """A judged conversation with replies of these ratings, by m0, m1 and so on."""
    replies = [
        {
            "model": f"m{at}",
            "content": f"Reply {at} of {number}.",
            "rating": rating,
            "ratings": [
                {"unparsable": "?"} if rating is None else {"rating": rating, "reason": f"As {rating}."}
            ],
        }
        for at, rating in enumerate(ratings)
    ]
    prompt = [*PROMPT[:1], {"role": "user", "content": f"Why {number}?"}]
    return {"id": "x", "prompt": prompt, "judge": "j", "scale": list(scale), "replies": replies}


def compared(*winners: int | None) -> dict[str, Any]:
    """Three replies, of which each pair was compared: 0 with 1, 0 with 2, 1 with 2."""
    pairs = zip(((0, 1), (0, 2), (1, 2)), winners, strict=True)
    found = [{"left": left, "right": right, "winner": winner} for (left, right), winner in pairs]
    return {**rated(None, None, None), "scale": [0, 1], "comparisons": found}


@pytest.mark.parametrize(
    ("row", "chosen", "rejected"),
    [
        (rated(3, 5, 1, 5, 1), "m1", "m2"),  # of the same score the first
        (rated(3, None, 2), "m0", "m2"),
        (compared(0, 0, 1), "m0", "m2"),
        (compared(None, 0, None), "m0", "m2"),
    ],
)
def test_the_best_and_the_worst_are_a_pair(row: dict[str, Any], chosen: str, rejected: str) -> None:
    (pair,) = pair_rows([row])
    assert (pair["chosen_model"], pair["rejected_model"]) == (chosen, rejected)
    assert pair["rating_chosen"] > pair["rating_rejected"]


@pytest.mark.parametrize(
    ("row", "least"),
    [
        (rated(4, 4), None),
        (rated(4, 4), 0),
        (rated(4, 3.5), None),
        (rated(5, 3), 3),
        (rated(None, None), None),
        (compared(None, None, None), None),
    ],
)
def test_ties_and_small_differences_are_none(row: dict[str, Any], least: float | None) -> None:
    assert list(pair_rows([row], least)) == []


def test_scores_of_comparisons_are_shares_of_wins() -> None:
    assert scores(compared(0, None, 2)) == [0.75, 0.0, 0.75]
    row = compared(0, 0, 1)
    row["comparisons"][2] = {"left": 1, "right": 2, "faults": [{"error": "500"}]}
    assert scores(row) == [1.0, 0.0, 0.0]


def test_good_and_bad_rows_by_the_quarters_of_the_scale() -> None:
    rows = list(kto_rows([rated(5, 4, 3, 2, 1, None)]))
    assert [(row["rating"], row["label"]) for row in rows] == [(5, True), (4, True), (2, False), (1, False)]
    assert rows[0]["comment"] == "As 5."
    assert [row["rating"] for row in kto_rows([rated(5, 4, 3, 2, 1)], up_from=5, down_to=3)] == [5, 3, 2, 1]
    assert [row["label"] for row in kto_rows([rated(10, 8, 7, 3, scale=(1, 10))])] == [True, True, False]


def test_a_reply_that_the_token_limit_cut_says_so() -> None:
    row = rated(5, 1)
    row["replies"][1]["finished"] = False
    whole, cut = kto_rows([row])
    assert "finish_reason" not in whole
    assert cut["finish_reason"] == "length"


@pytest.mark.parametrize("trainer", ["KTO", "DPO"])
def test_datasets_and_trl_take_them(tmp_path: Path, tiny_model: Path, trainer: str) -> None:
    judged = [rated(5, 1, number=number) for number in range(6)]
    file = tmp_path / "rows.jsonl"
    write_lines(file, list(kto_rows(judged) if trainer == "KTO" else pair_rows(judged)))
    rows = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    prepared = Template(tiny_model).prepared(trainer, tiny_model, rows, tmp_path / "out")
    assert len(prepared) == (12 if trainer == "KTO" else 6)
    decode = Template(tiny_model).tokenizer.decode
    assert "Why 0?" in decode(prepared[0]["prompt_ids"])
    answer = prepared[0]["completion_ids" if trainer == "KTO" else "chosen_ids"]
    assert "Reply 0 of 0." in decode(answer)
