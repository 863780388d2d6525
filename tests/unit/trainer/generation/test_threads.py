"""Small steps are computed by one thread, large ones and those of large models by all."""

from collections.abc import Iterator

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trainer.generation.threads import limit_threads


@pytest.fixture
def restored() -> Iterator[None]:
    """Puts this thread's number back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def threads_of(model: LlamaForCausalLM, tokens: int) -> int:
    """With how many the layers of a pass are computed."""
    seen: list[int] = []
    hook = model.model.layers[0].register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    with torch.inference_mode():
        model(input_ids=torch.zeros(1, tokens, dtype=torch.long))
    hook.remove()
    return seen[0]


def model_of(hidden: int, intermediate: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        **{"vocab_size": 8, "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "num_key_value_heads": 1},
    )
    model = LlamaForCausalLM(config).eval()
    limit_threads(model, available=3)
    return model


def test_a_step_has_the_threads_that_its_tokens_need(restored: None) -> None:
    model = model_of(576, 1536)
    assert [threads_of(model, tokens) for tokens in (1, 16, 256, 16)] == [1, 1, 3, 1]


def test_a_large_model_has_all_threads_for_every_step(restored: None) -> None:
    torch.set_num_threads(3)
    assert [threads_of(model_of(1024, 4096), tokens) for tokens in (1, 256)] == [3, 3]
