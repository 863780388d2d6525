"""Measures of sampled replies."""

from pathlib import Path

import pytest

from app.simulation.measures import measure
from app.simulation.prompts import Prompt, read_prompts, split_prompts
from app.simulation.tastes import TASTES, SimulatedReply
from storage.errors import InvalidInput


def test_measures_of_four_replies() -> None:
    texts = {"a b c d a b c d a": True, "": True, "one two": False, "one two three": True}
    replies = [SimulatedReply("?", "en", None, text, finished) for text, finished in texts.items()]
    found = measure(replies, TASTES["brief"])
    assert found == {
        "liked": 0.5,
        "low": pytest.approx(0.0676, abs=1e-4),
        "high": pytest.approx(0.9324, abs=1e-4),
        "replies": 4,
        "finished": 0.75,
        "empty": 0.25,
        "words": 14 / 4,
        # Of the six 4-grams of the first reply two occur a second time.
        "repeated_4grams": pytest.approx(2 / 6 / 4),
        # ab bc cd da | ab bc cd da | one two | one two, two three: 6 different ones of 11
        "distinct_2grams": pytest.approx(6 / 11),
    }


def test_the_shipped_prompts() -> None:
    prompts = read_prompts()
    assert len({prompt.text for prompt in prompts}) == len(prompts) == 240
    assert {prompt.language for prompt in prompts} == {"en", "de", "fr", "es", "it", "pt", "ro"}
    assert sum(prompt.answer is not None for prompt in prompts) >= 60


def test_measured_prompts_are_not_chatted_about() -> None:
    prompts = [Prompt(f"Prompt {number}") for number in range(20)]
    chatted, measured = split_prompts(prompts, measured=5, seed=3)
    assert len(measured) == 5
    assert {*chatted, *measured} == {*prompts}
    assert not {*chatted} & {*measured}
    assert (chatted, measured) == split_prompts(prompts, measured=5, seed=3)
    assert measured != split_prompts(prompts, measured=5, seed=4)[1]


@pytest.mark.parametrize(
    "line", ["[]", "not JSON", '{"question": "?"}', '{"prompt": 3}', '{"prompt": " "}', ""]
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "First"}}\n{line}\n')
    with pytest.raises(InvalidInput, match="line 2"):
        read_prompts(file)


def test_too_few_prompts_are_refused() -> None:
    with pytest.raises(InvalidInput, match="--measured 3"):
        split_prompts([Prompt("?")] * 3, measured=3, seed=0)
