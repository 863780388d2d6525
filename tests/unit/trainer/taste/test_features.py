"""A reply's features: figures of the text by hand, states against a plain pass of the tiny model."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.adapters import adapted
from trainer.engine.fast.layers import fast_layers
from trainer.engine.select import scoring
from trainer.taste.features import PROMPT_TOKENS, Features, Reply, read_features, text_figures


def reply(text: str, *, prompt: str = "What is it?", finished: bool = True, tokenizer: Any = None) -> Reply:
    prompt_ids, completion_ids = (tokenizer(one)["input_ids"] if tokenizer else [1] for one in (prompt, text))
    return Reply(prompt_ids, completion_ids, prompt, text, finished)


# The text


def test_figures_of_a_text_by_hand() -> None:
    found = text_figures(reply("It's 3 steps!\n\n- Look. \n- Ask: who, where?\n", prompt="Who is it?"))
    logs = {
        "words": 8,  # it, s, 3, steps, look, ask, who, where
        "sentences": 3,
        "lines": 4,
        "paragraphs": 1,
        "list items": 2,
        "exclamation marks": 1,
        "question marks": 1,
        "apostrophes": 1,
        "commas": 1,
        "colons": 1,
        "words of the prompt": 3,
    }
    for name, count in logs.items():
        assert found[name] == pytest.approx(math.log1p(count)), name
    assert found["words a sentence"] == pytest.approx(math.log1p(8 / 3))
    assert found["words repeated from the prompt"] == pytest.approx(2 / 3)
    assert found["any list"] == found["any digit"] == found["finished"] == 1
    assert found["any code"] == found["any markup"] == found["empty"] == found["repeated 4-grams"] == 0
    assert found["words if finished"] == found["words"]


def test_a_loop_is_seen_as_repetition() -> None:
    found = text_figures(reply("to be or not " * 5, finished=False))
    # Of its 17 4-grams four are different.
    assert found["repeated 4-grams"] == pytest.approx(13 / 17)
    assert found["distinct words"] == pytest.approx(4 / 20)
    assert found["words if finished"] == found["finished"] == 0


def test_text_of_other_scripts_counts_too() -> None:
    found = text_figures(reply("你好！这是什么？\n1) 一。"))
    assert found["exclamation marks"] == found["question marks"] == pytest.approx(math.log1p(1))
    assert found["sentences"] == pytest.approx(math.log1p(3))
    assert found["letters beyond ASCII"] == 1
    assert found["any list"] == 1


def test_an_empty_reply_has_finite_figures() -> None:
    found = text_figures(reply("", prompt=""))
    assert found["empty"] == 1
    assert all(map(math.isfinite, found.values()))


# The states


def mean_states(model: Any, prompt: list[int], completion: list[int]) -> tuple[Any, Any]:
    with torch.no_grad():
        states = model(torch.tensor([prompt + completion]), output_hidden_states=True).hidden_states[-1][0]
    return states[: len(prompt)].mean(0).numpy(), states[len(prompt) :].mean(0).numpy()


def test_states_are_the_means_of_the_last_hidden_states(base: Any, tokenizer: Any) -> None:
    replies = [
        reply("It is a word.", tokenizer=tokenizer),
        reply("No.", prompt="Is it so?", tokenizer=tokenizer),
    ]
    for one, found in zip(replies, read_features(base, replies), strict=True):
        prompt, completion = mean_states(base, list(one.prompt_ids), list(one.completion_ids))
        np.testing.assert_allclose(found.prompt_state, prompt, atol=1e-5)
        np.testing.assert_allclose(found.reply_state, completion, atol=1e-5)
        assert found.plain == text_figures(one)


def test_an_adapter_changes_no_feature_and_stays_active(base: Any, tokenizer: Any) -> None:
    one = reply("It is a word.", tokenizer=tokenizer)
    (expected,) = read_features(base, [one])
    model = adapted(base)
    with fast_layers(model):
        before = mean_states(model, list(one.prompt_ids), list(one.completion_ids))
        (found,) = read_features(model, [one])
        after = mean_states(model, list(one.prompt_ids), list(one.completion_ids))
    np.testing.assert_allclose(found.reply_state, expected.reply_state, atol=1e-5)
    np.testing.assert_array_equal(before[1], after[1])
    assert np.abs(before[1] - expected.reply_state).max() > 1e-3


def test_states_in_bf16_are_those_of_fp32_up_to_rounding(tiny_model: Path, base: Any, tokenizer: Any) -> None:
    one = reply("It is a word.", tokenizer=tokenizer)
    (expected,) = read_features(base, [one])
    model = adapted(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16))
    (plain,) = read_features(model, [one])
    with scoring("shared-prefix", model):
        (exact,) = read_features(model, [one])
    for found in (plain, exact):
        np.testing.assert_allclose(found.reply_state, expected.reply_state, atol=0.1)


def test_only_the_end_of_a_long_prompt_is_read(base: Any) -> None:
    ids = (torch.arange(PROMPT_TOKENS + 50) % 90 + 5).tolist()
    long, cut = (Reply(prompt, [7, 8], "", "so", True) for prompt in (ids, ids[50:]))
    found, expected = read_features(base, [long, cut])
    np.testing.assert_array_equal(found.prompt_state, expected.prompt_state)


def test_progress_counts_and_may_end_the_reading(base: Any, tokenizer: Any) -> None:
    replies = [reply(f"It is {number}.", tokenizer=tokenizer) for number in range(4)]
    seen: list[int] = []
    read_features(base, replies, seen.append)
    assert seen == [1, 2, 3, 4]

    def stop(done: int) -> None:
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        read_features(base, replies, stop)


def test_similarity_is_the_cosine_of_the_states() -> None:
    def of(prompt: list[float], completion: list[float]) -> float:
        return Features({}, np.array(prompt, np.float32), np.array(completion, np.float32)).similarity

    assert of([1, 2], [2, 4]) == pytest.approx(1)
    assert of([1, 0], [0, 3]) == 0
    assert of([1, 0], [-3, 0]) == pytest.approx(-1)
    assert of([0, 0], [1, 0]) == 0
