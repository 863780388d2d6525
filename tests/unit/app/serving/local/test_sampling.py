"""Choosing tokens, and token ids to text: sampling, whole characters, stop strings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, TopPLogitsWarper

from app.serving.reply import Sampling
from app.serving.text import Detokeniser, StopStrings
from storage.errors import InvalidInput
from trainer.generation.sampling import Sampler, choose_tokens


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@given(seed=st.integers(0, 2**32), top_p=st.floats(0.05, 1), spread=st.floats(0.01, 8))
def test_sampling_stays_in_the_nucleus_that_transformers_keeps(
    seed: int, top_p: float, spread: float
) -> None:
    scores = torch.randn(3000, generator=torch.Generator().manual_seed(seed)) * spread
    # The two round sums of probabilities differently, so the oracle's border is drawn a hair wider.
    kept = TopPLogitsWarper(min(1.0, top_p + 1e-4))(torch.zeros(1, 1), scores[None] / 0.8)[0]
    sampler = Sampler(temperature=0.8, top_p=top_p, seed=seed)
    assert all(kept[choose_tokens(scores[None], [sampler])[0]] > -torch.inf for _ in range(5))


def test_temperature_zero_and_a_nucleus_of_one_are_greedy() -> None:
    scores = torch.tensor([0.1, 5.0, 0.3])
    for temperature, top_p in ((0, 1), (1e-300, 1), (2, 1e-9)):
        assert choose_tokens(scores[None], [Sampler(temperature, top_p)]) == [1]


def test_draws_follow_the_probabilities_and_a_seed_repeats_them_in_any_company() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 9.0, 0.0, 0.0]])
    for top_p in (1.0, 0.95):
        alone, first, second = (Sampler(1, top_p, seed=-5) for _ in range(3))
        other = Sampler(2, 0.5, seed=5)
        drawn = [choose_tokens(scores[:1], [alone])[0] for _ in range(4000)]
        together = [choose_tokens(scores, [first, other])[0] for _ in range(200)]
        assert together == drawn[:200]
        assert [choose_tokens(scores.flip(0), [other, second])[1] for _ in range(200)] == together
        kept = scores[0].softmax(0)[: 4 if top_p == 1 else 3]
        shares = torch.bincount(torch.tensor(drawn), minlength=len(kept)) / len(drawn)
        assert torch.allclose(shares, kept / kept.sum(), atol=0.03)


def test_a_nucleus_wider_than_the_candidates_is_still_whole() -> None:
    scores = torch.zeros(1, 5000)  # all as likely
    sampler = Sampler(1, 0.9, seed=1)
    drawn = {choose_tokens(scores, [sampler])[0] for _ in range(300)}
    assert len(drawn) > 250


def test_logits_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        choose_tokens(torch.tensor([[0.0, float("nan")]]), [Sampler(0, 1)])


@given(text=st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"])))
def test_streamed_text_is_whole_characters_and_all_of_them(tokenizer: Any, text: str) -> None:
    detokeniser = Detokeniser(tokenizer)
    deltas = [detokeniser.add(token) for token in tokenizer.encode(text)]
    assert "".join(deltas) == text
    assert "\ufffd" not in "".join(deltas)
    assert detokeniser.flush() == ""


def test_a_character_that_never_ends_is_left_out(tokenizer: Any) -> None:
    detokeniser = Detokeniser(tokenizer)
    ids = tokenizer.encode("a🌊")
    assert "".join(detokeniser.add(token) for token in ids[:-1]) + detokeniser.flush() == "a"


@given(
    pieces=st.lists(st.text("abc", max_size=3)),
    stops=st.lists(st.text("abc", min_size=1, max_size=3), max_size=3),
)
def test_stop_strings_cut_where_the_first_one_is_complete(pieces: list[str], stops: list[str]) -> None:
    cutter = StopStrings(stops)
    passed = ""
    for count, piece in enumerate(pieces, 1):
        passed += cutter.add(piece)
        text = "".join(pieces[:count])
        starts = [text.find(stop) for stop in stops if stop in text]
        assert cutter.found == bool(starts)
        if starts:
            assert passed == text[: min(starts)]
            return
        assert text.startswith(passed)
    assert passed + cutter.flush() == "".join(pieces)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ("",)}, "stop"),
        ({"stop": ("x",) * 17}, "stop"),
    ],
)
def test_sampling_out_of_range_names_the_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Sampling(**{"temperature": 1, "top_p": 1, "max_new_tokens": 1, **changes})  # type: ignore[arg-type]
    assert refused.value.field == field
