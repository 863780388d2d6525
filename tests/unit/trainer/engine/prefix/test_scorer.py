"""Shared prefixes give the numbers of separate rows: other architectures, turns, siblings, gradients."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
)

from storage.settings import Settings
from trainer.dataset.batch import Item
from trainer.engine.fast.attention import ATTENTION
from trainer.engine.fast.layers import fast_layers
from trainer.engine.prefix.scorer import PrefixScorer
from trainer.engine.select import settle_engine, why_not_exact

SIZE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
GROUPED = SIZE | {"num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED),
    "gemma3": Gemma3TextConfig(
        **GROUPED,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=8,
    ),
    "gpt_neox": GPTNeoXConfig(**SIZE),
    # Scores that are capped, divided, multiplied.
    "gemma2": Gemma2Config(
        **GROUPED,
        sliding_window=16,
        query_pre_attn_scalar=8,
        final_logit_softcapping=0.5,
        attn_logit_softcapping=None,
    ),
    "granite": GraniteConfig(**GROUPED, logits_scaling=3.0),
    "cohere": CohereConfig(**SIZE, num_key_value_heads=2, logit_scale=0.5),
}
DRAW = torch.Generator().manual_seed(1)
IDS = torch.randint(1, 97, (200,), generator=DRAW).tolist()
PROMPT, FIRST, SIBLING, LATER, OTHER = IDS[:60], IDS[60:75], IDS[75:95], IDS[95:110], IDS[110:150]
# Two turns on one path, a sibling that branches off, and a chat of its own; each the next one's partner.
BATCH = [
    Item(PROMPT, FIRST, OTHER[:9]),
    Item(PROMPT + FIRST, LATER, FIRST),
    Item(PROMPT, SIBLING, LATER[:1]),
    Item(OTHER, IDS[150:170], SIBLING),
]


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(CONFIGS[request.param])
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return model


def plain(model: Any, prompt: list[int], completion: list[int] | None) -> torch.Tensor:
    assert completion is not None
    ids = torch.tensor([prompt + completion])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).sum()


@pytest.mark.parametrize("recompute", [False, True])
def test_scores_and_gradients_are_those_of_separate_rows(model: Any, recompute: bool) -> None:
    expected = torch.stack([plain(model, prompt, own) for prompt, own, _ in BATCH])
    mismatched = torch.stack([plain(model, prompt, other) for prompt, _, other in BATCH])
    by = torch.tensor([0.5, -1.0, 2.0, 0.25])
    (expected * by).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with model.disable_adapter():
        reference = torch.stack([plain(model, prompt, own) for prompt, own, _ in BATCH])

    with fast_layers(model):
        scorer = PrefixScorer(model, recompute=recompute)
        scores = scorer.policy(BATCH)
        (scores.completions * by).sum().backward()
        live = scorer.reference(BATCH)
    torch.testing.assert_close(scores.completions, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(scores.mismatched, mismatched, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(live.completions, reference, rtol=1e-5, atol=1e-4)
    assert not scores.mismatched.requires_grad
    assert not live.completions.requires_grad
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == gradients.keys(), "the base gets no gradient"
    torch.testing.assert_close(found, gradients, rtol=1e-3, atol=1e-4)


def test_chats_beside_each_other_share_no_converted_weight() -> None:
    """Autocast would convert an adapter once and give the copy to both, and one of them the gradient."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(CONFIGS["llama"]).bfloat16()
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))

    def gradients(threads: int) -> list[torch.Tensor]:
        model.zero_grad()
        scorer = PrefixScorer(model)
        assert scorer.parallel is not None
        scorer.parallel.threads = threads
        scorer.policy(BATCH).completions.sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    one, two = gradients(1), gradients(2)
    assert any(gradient.any() for gradient in one)
    assert all(mine.equal(other) for mine, other in zip(one, two, strict=True))


def test_every_one_of_them_is_trained_by_the_fast_engine(model: Any) -> None:
    assert why_not_exact(model.get_base_model()) is None


def test_layers_are_put_back(model: Any) -> None:
    before = model.get_base_model().config._attn_implementation
    with fast_layers(model):
        found = model.get_base_model().config._attn_implementation
        assert found == (ATTENTION if before == "sdpa" else before)
    assert model.get_base_model().config._attn_implementation == before
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_whole_length_are_left_to_trl(kind: str) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 4.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 64}
    small = LlamaConfig(**GROUPED, rope_parameters=rope)
    model = AutoModelForCausalLM.from_config(small)
    assert settle_engine(Settings(engine="shared-prefix"), model).engine == "trl"
    assert f"the model's {kind} positions depend on the length" in str(why_not_exact(model))


def test_a_mixture_of_experts_that_balances_them_is_left_to_trl() -> None:
    """TRL adds the routers' loss by the coefficient alone, which these configurations have by themselves."""
    experts = MixtralConfig(**GROUPED, num_local_experts=2, num_experts_per_tok=1)
    reason = why_not_exact(AutoModelForCausalLM.from_config(experts))
    assert reason == "the model's experts have a loss of their own"
    experts.router_aux_loss_coef = 0.0
    assert why_not_exact(AutoModelForCausalLM.from_config(experts)) is None


def test_a_lack_of_memory_is_not_taken_for_a_model_without_a_cache() -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"])

    def lack(*_: Any) -> None:
        raise torch.OutOfMemoryError("for a moment")

    model.register_forward_pre_hook(lack)
    model.model.register_forward_pre_hook(lack)
    with pytest.raises(torch.OutOfMemoryError):
        why_not_exact(model)


def test_a_model_without_a_cache_is_left_to_trl(caplog: pytest.LogCaptureFixture) -> None:
    from transformers import MambaConfig

    torch.manual_seed(0)
    small = MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4)
    assert (
        settle_engine(Settings(engine="shared-prefix"), AutoModelForCausalLM.from_config(small)).engine
        == "trl"
    )
    assert "stock TRL" in caplog.text
