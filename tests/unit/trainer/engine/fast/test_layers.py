"""The faster layers give what the usual ones give, and take the place of none that computes otherwise."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig

from trainer.engine.fast import attention
from trainer.engine.fast.layers import fast_layers, is_vanilla
from trainer.engine.fast.lora import lora_forward

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def with_lora(config: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    # Or every norm multiplies by one, and a wrong weight is as good as a right one.
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.normal_(mean=1.0, std=0.3)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return model


def replaced(model: Any) -> set[str]:
    return {type(module).__name__ for module in model.modules() if "forward" in vars(module)}


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    ids = torch.arange(40)[None] % 97
    logits = model(input_ids=ids, use_cache=False).logits
    (logits.log_softmax(-1)[0, :, 5] * torch.linspace(-1, 1, 40)).sum().backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def test_the_layers_of_a_llama_are_replaced_and_its_gradients_stay() -> None:
    model = with_lora(LlamaConfig(**SMALL))
    expected = gradients(model)
    with fast_layers(model):
        assert replaced(model) == {"Linear", "LlamaMLP", "LlamaRMSNorm"}
        found = gradients(model)
    assert replaced(model) == set()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_norms_and_feed_forwards_of_another_formula_stay() -> None:
    # Its norms multiply by 1 + weight, its feed-forwards use another activation.
    model = with_lora(GemmaConfig(**SMALL))
    with fast_layers(model):
        assert replaced(model) == {"Linear"}


def test_a_feed_forward_that_multiplies_its_gate_stays() -> None:
    model = with_lora(LlamaConfig(**SMALL))
    modules = [module for module in model.modules() if type(module).__name__ == "LlamaMLP"]

    def halved(x: torch.Tensor) -> torch.Tensor:
        (one,) = modules[:1]
        result: torch.Tensor = one.down_proj(one.act_fn(0.5 * one.gate_proj(x)) * one.up_proj(x))
        return result

    class Halved(type(modules[0])):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return halved(x)

    modules[0].__class__ = Halved
    with fast_layers(model):
        assert "forward" not in vars(modules[0])
        assert "forward" in vars(modules[1])


def test_norms_that_are_trained_stay() -> None:
    model = with_lora(LlamaConfig(**SMALL)).get_base_model()
    model.requires_grad_(True)
    with fast_layers(model):
        assert "LlamaRMSNorm" not in replaced(model)


def test_a_feed_forward_that_takes_more_than_the_positions_stays() -> None:
    model = with_lora(LlamaConfig(**SMALL))
    last = [module for module in model.modules() if type(module).__name__ == "LlamaMLP"][-1]

    class Added(type(last)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = super().forward(x) + residual
            return result

    last.__class__ = Added
    with fast_layers(model):
        assert "forward" not in vars(last)
        assert replaced(model) == {"Linear", "LlamaMLP", "LlamaRMSNorm"}


def test_layers_are_put_back_whatever_goes_wrong() -> None:
    model = with_lora(LlamaConfig(**SMALL))
    with pytest.raises(RuntimeError, match="in the middle"), fast_layers(model):
        raise RuntimeError("in the middle of it")
    assert replaced(model) == set()


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: int) -> list[torch.Tensor]:
    leaves = [one.clone().requires_grad_() for one in (query, key, value)]
    result, _ = attention.attention(nn.Module(), *leaves, attention_mask=None, scaling=0.3, **options)
    by = torch.linspace(-1, 1, result.numel()).view(result.shape).to(result.dtype)
    return [result.detach(), *torch.autograd.grad(result, leaves, by)]


@pytest.mark.parametrize("kept", [True, False], ids=["softmax kept", "softmax computed again"])
@pytest.mark.parametrize("queries", [300, 130, 7])
@pytest.mark.parametrize("batch", [1, 2])
def test_attention_is_that_of_pytorch(batch: int, queries: int, kept: bool) -> None:
    draw = torch.Generator().manual_seed(queries)
    query = torch.randn(batch, 6, queries, 16, generator=draw)
    key, value = (torch.randn(batch, 2, 300, 16, generator=draw) for _ in range(2))
    found = attend(query, key, value, kept_keys=300 if kept else 299)

    leaves = [one.clone().requires_grad_() for one in (query, key, value)]
    seen = torch.ones(queries, 300, dtype=torch.bool).tril(300 - queries)
    result = nn.functional.scaled_dot_product_attention(
        *leaves, attn_mask=seen, scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    by = torch.linspace(-1, 1, result.numel()).view(result.shape)
    expected = [result.detach(), *torch.autograd.grad(result, leaves, by)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_attention_in_bf16_is_near_that_in_fp32() -> None:
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(1, 6, 300, 16, generator=draw)
    key, value = (torch.randn(1, 2, 300, 16, generator=draw) for _ in range(2))
    exact = attend(query, key, value)
    for ours, theirs in zip(attend(query, key, value.bfloat16()), exact, strict=True):
        assert (ours.float() - theirs).norm() < 0.01 * theirs.norm()


def test_what_layers_read_is_converted_once_and_never_mixed_up() -> None:
    model = with_lora(LlamaConfig(**SMALL)).to(torch.bfloat16)
    layers = [module for name, module in model.named_modules() if name.endswith(("q_proj", "k_proj"))][:2]
    draw = torch.Generator().manual_seed(0)
    one, other = (torch.randn(1, 5, 32, generator=draw) for _ in range(2))

    def results() -> list[torch.Tensor]:
        with torch.no_grad():
            found = [layer(x.clone()) for x in (one, other) for layer in layers]
        return [result.float() for result in found]

    def shared() -> list[torch.Tensor]:
        found = [layer(x).detach().float() for x in (one, other) for layer in layers]
        other.add_(1.0)
        changed = layers[0](other).detach().float()
        assert (changed - found[2]).norm() > 0.1 * found[2].norm(), "what changed in place is converted anew"
        return found

    for _ in range(2):  # the second time one of them has changed in place
        with torch.autocast("cpu", torch.bfloat16):
            expected = results()
        with fast_layers(model):
            found = shared()
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_the_same_with_and_without_gradients(dtype: torch.dtype, bias: bool) -> None:
    """A version that replies computes what its training did, in fewer steps, also under autocast."""
    model = with_lora(LlamaConfig(**SMALL, attention_bias=bias))
    model.to(dtype)
    layer = next(module for module in model.modules() if is_vanilla(module))
    x = torch.randn(2, 3, SMALL["hidden_size"])
    trained = lora_forward(layer, x)
    with torch.no_grad():
        alone = lora_forward(layer, x)
        with torch.autocast("cpu", torch.bfloat16):
            cast = lora_forward(layer, x)
        model.disable_adapter_layers()
        assert not torch.equal(lora_forward(layer, x), alone)
    assert trained.requires_grad
    assert not alone.requires_grad
    assert alone.dtype == dtype
    assert torch.equal(alone, trained)
    assert torch.equal(cast, trained)


def test_layers_of_two_formats_read_one_input_each_in_its_own() -> None:
    model = with_lora(LlamaConfig(**SMALL)).to(torch.bfloat16)
    layers = [module for name, module in model.named_modules() if name.endswith(("q_proj", "k_proj"))][:2]
    layers[1].base_layer.to(torch.float16)
    x = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    with fast_layers(model):
        assert [layer(x).dtype for layer in layers] == [torch.bfloat16, torch.float16]


@pytest.mark.parametrize(("keys", "kept"), [(300, True), (301, False)])
def test_a_long_softmax_is_not_kept(keys: int, kept: bool) -> None:
    saved: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    leaves = [torch.randn(1, 1, keys, 4, requires_grad=True) for _ in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        attention.attention(nn.Module(), *leaves, attention_mask=None, scaling=0.3, kept_keys=300)
    assert (sum(saved) > keys * keys / 2) == kept
