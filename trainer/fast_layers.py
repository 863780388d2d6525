"""LoRA layers and causal attention with fewer copies; the same numbers up to rounding.

PEFT's layer and PyTorch's attention for processors copy and convert more than they multiply. While
`fast_layers` is open, vanilla LoRA layers and plain causal attention of a model run through the functions
here; whatever is not vanilla stays as it is. Knows no rows and no objective.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners import lora
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function, sdpa_mask

ATTENTION = "blockwise_causal"
# Queries that are scored at once: few enough to skip most of what lies in their future, and for the scores
# to stay in the cache; enough for the matrix products.
QUERIES = 64


@contextmanager
def fast_layers(model: nn.Module) -> Iterator[None]:
    """Replace the layers of a model, or of a PEFT model's base, that have a faster equal, until the end."""
    layers = [module for module in model.modules() if _is_vanilla(module)]
    for layer in layers:
        layer.forward = partial(_lora_forward, layer)
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    usual = base.config._attn_implementation
    if usual == "sdpa" and base.device.type == "cpu":
        base.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
        base.set_attn_implementation(usual)


def _is_vanilla(module: nn.Module) -> bool:
    """Whether it is a plain linear layer with plain LoRA adapters."""
    if type(module) is not lora.Linear or type(module.base_layer) is not nn.Linear:
        return False
    return (
        bool(module.lora_A)
        and not module.lora_variant
        and not any(module.lora_bias.values())
        and not any(getattr(dropout, "p", 0) for dropout in module.lora_dropout.values())
    )


def _lora_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    base = layer.base_layer
    with torch.autocast(x.device.type, enabled=False):
        if layer.disable_adapters:
            return nn.functional.linear(x.to(base.weight.dtype), base.weight, base.bias)
        (adapter,) = layer.active_adapters
        result: torch.Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
            x,
            base.weight,
            base.bias,
            layer.lora_A[adapter].weight,
            layer.lora_B[adapter].weight,
            layer.scaling[adapter],
        )
    return result


class _LoraLinear(torch.autograd.Function):
    """x·Wᵀ + s·(x·Aᵀ)·Bᵀ + bias, with gradients for x, A and B.

    The adapter's small term comes first and the large product is added to it before it is rounded. The other
    way round bf16 rounds a young adapter's term away: it keeps 8 bits, and the term is below the last one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        down = flat @ lora_a.to(weight.dtype).t()
        result = down @ (lora_b * scaling).to(weight.dtype).t()
        if bias is not None:
            result += bias
        result.addmm_(flat, weight.t())
        ctx.save_for_backward(flat, down, weight, lora_a, lora_b)
        ctx.format, ctx.scaling = x.dtype, scaling
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, down, weight, lora_a, lora_b = ctx.saved_tensors
        with torch.autocast(flat.device.type, enabled=False):
            gradient = gradients[0].reshape(-1, weight.shape[0]).to(weight.dtype)
            up = gradient @ (lora_b * ctx.scaling).to(weight.dtype)
            of_a = (up.t() @ flat).to(lora_a.dtype)
            of_b = (gradient.t() @ down).to(lora_b.dtype).mul_(ctx.scaling)
            of_x = None
            if ctx.needs_input_grad[0]:
                of_x = (up @ lora_a.to(weight.dtype)).addmm_(gradient, weight)
                of_x = of_x.to(ctx.format).view(*gradients[0].shape[:-1], -1)
        return of_x, None, None, of_a, of_b, None


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' terms; without a mask the queries are the last positions of the keys."""
    # Scores are in fp32 also where the layers multiply in bf16: rounded ones are a good part of what
    # rounding does to a reply's reward.
    query, key = query.float(), key.float()
    special = any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias"))
    if attention_mask is None and not dropout and not special:
        with torch.autocast(query.device.type, enabled=False):
            result = _CausalAttention.apply(query, key, value, scaling or query.shape[-1] ** -0.5)  # type: ignore[no-untyped-call]
        return result.transpose(1, 2), None
    value = value.float()
    if attention_mask is None:
        queries, keys = query.shape[2], key.shape[2]
        attention_mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None]
    result, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return result, None


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Any = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> torch.Tensor | None:
    """None where `_attention` needs no mask, else what transformers would give."""
    if (
        allow_is_causal_skip
        and attention_mask is None
        and kv_offset == 0
        and q_offset + q_length == kv_length
        and (local_size is None or kv_length < local_size)
    ):
        return None
    mask: torch.Tensor | None = sdpa_mask(
        batch_size,
        q_length,
        kv_length,
        q_offset,
        kv_offset,
        mask_function,
        attention_mask,
        local_size,
        allow_is_causal_skip=False,
        **kwargs,
    )
    return mask


class _CausalAttention(torch.autograd.Function):
    """softmax(s·QKᵀ)·V for queries that are the last of the keys' positions, a block of queries at a time.

    Shapes: queries (batch, heads, queries, width) and keys (batch, groups, keys, width) in fp32, values
    (batch, groups, keys, width) in the format of every product but QKᵀ, which is also the result's. The
    backward pass computes the softmax again. PyTorch's own kernel for processors multiplies in fp32
    throughout, which on the machines we measured takes four times as long as in bf16.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        batch, heads, queries, width = query.shape
        groups, keys = key.shape[1:3]
        query = (query * scaling).reshape(batch * groups, heads // groups, queries, width)
        key, value = (one.reshape(batch * groups, keys, -1) for one in (key, value))
        result = value.new_empty(*query.shape[:3], value.shape[-1])
        for begin, end in _blocks(queries):
            seen = keys - queries + end
            shares = _shares(query[:, :, begin:end], key[:, :seen])
            found = torch.bmm(_flat(shares).to(value.dtype), value[:, :seen])
            result[:, :, begin:end] = found.view(*shares.shape[:3], -1)
        ctx.save_for_backward(query, key, value, result)
        ctx.scaling = scaling
        return result.view(batch, heads, queries, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, result = ctx.saved_tensors
        (gradient,) = gradients
        batch, queries, keys, products = gradient.shape[0], query.shape[2], key.shape[1], value.dtype
        gradient = gradient.reshape(result.shape)
        mean = (gradient.float() * result).sum(-1, keepdim=True)
        narrow_query, narrow_key = query.to(products), key.to(products)
        of_query = torch.empty_like(query)
        of_key, of_value = torch.zeros_like(key), torch.zeros_like(value, dtype=key.dtype)
        with torch.autocast(query.device.type, enabled=False):
            for begin, end in _blocks(queries):
                seen = keys - queries + end
                here = _flat(gradient[:, :, begin:end])
                shares = _shares(query[:, :, begin:end], key[:, :seen])
                of_value[:, :seen] += torch.bmm(_flat(shares).to(products).transpose(1, 2), here)
                change = torch.bmm(here, value[:, :seen].transpose(1, 2)).view(shares.shape)
                of_scores = _flat(shares.mul_(change - mean[:, :, begin:end])).to(products)
                found = torch.bmm(of_scores, narrow_key[:, :seen])
                of_query[:, :, begin:end] = found.view(*shares.shape[:3], -1)
                of_key[:, :seen] += torch.bmm(of_scores.transpose(1, 2), _flat(narrow_query[:, :, begin:end]))
        return (
            of_query.mul_(ctx.scaling).view(batch, -1, *query.shape[2:]),
            of_key.view(batch, -1, *key.shape[1:]),
            of_value.to(products).view(batch, -1, *value.shape[1:]),
            None,
        )


def _blocks(queries: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + QUERIES, queries)) for begin in range(0, queries, QUERIES)]


def _flat(one: torch.Tensor) -> torch.Tensor:
    """(groups, heads, queries, …) as (groups, heads·queries, …)."""
    return one.reshape(one.shape[0], -1, one.shape[-1])


def _shares(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Softmax of the scores, 0 in the future; the queries, scaled, are the last of the keys' positions.

    PyTorch's fused softmax takes half the time of its exp.
    """
    groups, heads, queries, width = query.shape
    keys = key.shape[1]
    scores = torch.bmm(query.reshape(groups, heads * queries, width), key.transpose(1, 2))
    scores = scores.view(groups, heads, queries, keys)
    future = torch.full((queries, queries), -torch.inf, device=key.device).triu_(1)
    scores[..., keys - queries :] += future
    return scores.softmax(-1)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)
