"""Sampled replies: complete, repeatable, independent of their company, and never waited for in vain."""

from pathlib import Path
from typing import Any

import pytest
import torch

from storage.settings import Settings
from trainer.generation.plain_engine import generate_tokens
from trainer.generation.replies import SampledReply, generate_replies
from trainer.generation.sampling import Sampler
from trainer.model.base_model import load_model, resolve

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [20] * 40]


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("generation")
    return load_model(resolve(Settings(data_dir=folder, model=str(tiny_model), precision="fp32")))[0]


def sample(model: Any, prompts: list[list[int]] = PROMPTS, **changes: Any) -> list[SampledReply]:
    values: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 12, "seed": 3}
    return generate_replies(model, prompts, end_ids=frozenset({2}), **{**values, **changes})


def test_a_reply_is_that_of_the_model_alone_with_its_own_draws(model: Any) -> None:
    found = sample(model)
    for place, (prompt, reply) in enumerate(zip(PROMPTS, found, strict=True)):
        alone = []
        with torch.inference_mode():
            for token in generate_tokens(model, prompt, Sampler(1.0, 0.9, 3_000_000 + place), 12):
                alone.append(token)
                if token == 2:
                    break
        assert reply.token_ids == alone
        assert reply.finished == (alone[-1] == 2)


def test_the_same_seed_repeats_in_other_company_and_another_seed_does_not(model: Any) -> None:
    assert sample(model, at_once=1) == sample(model)
    assert sample(model, seed=4) != sample(model)


def test_progress_counts_and_may_stop(model: Any) -> None:
    seen: list[int] = []
    sample(model, progress=seen.append)
    assert seen == [1, 2, 3, 4]

    class Stopped(Exception): ...

    def stop(done: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        sample(model, progress=stop)
    assert model.config._attn_implementation == "sdpa"
    assert sample(model) == sample(model)


def test_a_model_that_cannot_be_batched_gives_the_same_replies(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sample(model)
    model.set_attn_implementation("eager")
    try:
        assert [reply.token_ids for reply in sample(model)] == [reply.token_ids for reply in expected]
    finally:
        model.set_attn_implementation("sdpa")


def test_a_model_that_fails_is_an_error(model: Any) -> None:
    head = model.get_output_embeddings().weight
    kept = head.data.clone()
    head.data.fill_(float("nan"))
    try:
        with pytest.raises(RuntimeError, match=r"not finite|trial"):
            sample(model)
    finally:
        head.data.copy_(kept)


def test_no_prompts_no_replies(model: Any) -> None:
    assert sample(model, []) == []
