"""What a judge model rated trains, but judges no version unless a setting says so."""

from pathlib import Path

import pytest

from storage.examples.weights import source_weight
from storage.settings import Settings
from tests.support.examples import example
from trainer.dataset.split import split_by_chat
from trainer.model.base_model import load_tokenizer, resolve


@pytest.mark.parametrize("in_gate", [False, True])
def test_only_people_s_votes_are_held_out_unless_a_setting_says_so(
    tmp_path: Path, tiny_model: Path, in_gate: bool
) -> None:
    settings = Settings(data_dir=tmp_path, model=str(tiny_model), judge_in_gate=in_gate, judge_weight=0.25)
    votes = [
        example(
            f"Why {number}?",
            f"Because of {source} {number}.",
            label=number % 2 == 0,
            message_id=f"{source}{number}",
            chat_id=f"{source}{number}",
            source=source,
            origin=source,
        )
        for source in ("web", "judge:j")
        for number in range(20)
    ]
    split = split_by_chat(load_tokenizer(resolve(settings)), votes, settings)
    held, trained = ({row.example.origin for row in rows} for rows in (split.held_out, split.training))
    assert held == ({"web", "judge:j"} if in_gate else {"web"})
    assert trained == {"web", "judge:j"}
    assert len(split.training) + len(split.held_out) == 40
    assert {row.weight for row in split.training if row.example.origin == "judge:j"} == {0.25}


def test_each_source_has_a_weight_of_its_own() -> None:
    weights = {"import_weight": 0.5, "judge_weight": 0.25}
    found = {one: source_weight(one, **weights) for one in ("web", "import:kto", "judge:j", "judged")}
    assert found == {"web": 1.0, "import:kto": 0.5, "judge:j": 0.25, "judged": 1.0}
