"""Liked replies that repeat themselves are left out of a run, and the run says so."""

from pathlib import Path

import pytest

from storage.examples.example import CORRECTION
from storage.settings import Settings
from tests.support.examples import example
from trainer.dataset.repetition import repeated, repeats_itself
from trainer.dataset.split import Split, split_by_chat
from trainer.model.base_model import load_tokenizer, resolve

LOOP = "The river is long and deep. " * 6
PLAIN = "The river is long and deep, and its water comes from the mountains in the north."


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("one two three", 0.0),
        ("one two three four", 0.0),
        ("one two three four one two three four", 0.2),
        ("go " * 8, 0.8),
    ],
)
def test_repetition_is_the_share_of_4_grams_that_occurred_before(text: str, share: float) -> None:
    assert repeated(text.split()) == pytest.approx(share)
    assert not repeats_itself(text, share + 1e-9), "the limit itself is allowed"
    assert repeats_itself(text, share - 0.01)


def split(model: Path, folder: Path, **changes: float) -> Split:
    settings = Settings(data_dir=folder, model=str(model), **changes)
    kinds = [("liked", LOOP, True), ("disliked", LOOP, False), ("plain", PLAIN, True)]
    votes = [
        example(f"{name} {number}?", f"{text} {number}", label=label, message_id=f"{name}{number}")
        for number in range(10)
        for name, text, label in kinds
    ]
    written = example("What then?", LOOP, label=True, message_id="written", source=CORRECTION)
    return split_by_chat(load_tokenizer(resolve(settings)), [*votes, written], settings)


def test_liked_replies_that_repeat_themselves_are_left_out(tmp_path: Path, tiny_model: Path) -> None:
    found = split(tiny_model, tmp_path)
    kept = {row.example.message_id.rstrip("0123456789") for row in (*found.training, *found.held_out)}
    assert kept == {"disliked", "plain", "written"}
    (line,) = found.dropped.lines()
    assert line.startswith("Left out 10, because a liked reply that repeats more than 20% of its 4-grams")


def test_a_setting_lets_them_pass(tmp_path: Path, tiny_model: Path) -> None:
    found = split(tiny_model, tmp_path, max_repetition=1)
    assert len(found.training) + len(found.held_out) == 31
    assert not found.dropped
