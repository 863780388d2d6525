"""Causal attention for CPUs, a block of queries at a time, registered with transformers."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "blockwise_causal"
# Queries per block: few enough to skip most future keys and to keep the scores in the cache, and enough for
# efficient matrix products.
QUERIES = 128
# With at most this many keys the softmax is kept for the backward pass, in the format of the products. This
# saves a third of the time, for memory that grows with the square of the length. With more keys it is
# computed again.
KEPT_KEYS = 1024


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    kept_keys: int = KEPT_KEYS,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention with transformers' interface. Without a mask, the queries are the keys' last positions."""
    # Scores are in fp32 even if the layers multiply in bf16: rounded scores cause much of the rounding error
    # in a reply's reward.
    query, key = query.float(), key.float()
    special = any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias"))
    if attention_mask is None and not dropout and not special:
        with torch.autocast(query.device.type, enabled=False):
            scaling = scaling or query.shape[-1] ** -0.5
            result = _CausalAttention.apply(query, key, value, scaling, kept_keys)  # type: ignore[no-untyped-call]
        return result, None
    value = value.float()
    if attention_mask is None:
        queries, keys = query.shape[2], key.shape[2]
        attention_mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None]
    result, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return result, None


def mask(*, local_size: int | None = None, allow_is_causal_skip: bool = True, **asked: Any) -> Tensor | None:
    """None if `attention` needs no mask, otherwise transformers' mask. Has transformers' interface."""
    keys = asked["kv_length"]
    if (
        allow_is_causal_skip
        and asked["attention_mask"] is None
        and asked["kv_offset"] == 0
        and asked["q_offset"] + asked["q_length"] == keys
        and (local_size is None or keys < local_size)
    ):
        return None
    found: Tensor | None = sdpa_mask(local_size=local_size, allow_is_causal_skip=False, **asked)
    return found


class _CausalAttention(torch.autograd.Function):
    """softmax(s·QKᵀ)·V, a block of queries at a time; the queries are the last of the keys' positions.

    Shapes: queries (batch, heads, queries, width) and keys (batch, groups, keys, width) in fp32, values
    (batch, groups, keys, width) in the format of every product but QKᵀ. The result, (batch, queries, heads,
    width), has that format too. PyTorch's own CPU kernel multiplies in fp32 throughout, which on the machines
    we measured takes four times as long as bf16.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, kept_keys: int
    ) -> Tensor:
        batch, heads, queries, width = query.shape
        groups, keys = key.shape[1:3]
        query = query.reshape(batch * groups, heads // groups, queries, width)
        key, value = (one.reshape(batch * groups, keys, -1) for one in (key, value))
        result = value.new_empty(batch, queries, heads, value.shape[-1])
        by_group = result.view(batch, queries, groups, heads // groups, -1).permute(0, 2, 3, 1, 4)
        keep = any(ctx.needs_input_grad) and keys <= kept_keys
        kept = []
        for begin, end in _blocks(queries):
            seen = keys - queries + end
            shares = _shares(query[:, :, begin:end], key[:, :seen], scaling).to(value.dtype)
            if keep:
                kept.append(shares)
            found = torch.bmm(shares, value[:, :seen])
            by_group[:, :, :, begin:end] = found.view(batch, groups, heads // groups, end - begin, -1)
        ctx.save_for_backward(query, key, value, result, *kept)
        ctx.scaling = scaling
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, result, *kept = ctx.saved_tensors
        (gradient,) = gradients
        batch, queries, keys, products = gradient.shape[0], query.shape[2], key.shape[1], value.dtype
        mean = (gradient.float() * result).sum(-1, keepdim=True).to(products)
        gradient, mean = (
            one.transpose(1, 2).reshape(*query.shape[:3], one.shape[-1]) for one in (gradient, mean)
        )
        narrow_query, narrow_key = query.to(products), key.to(products)
        of_query = torch.empty_like(query)
        of_key, of_value = torch.zeros_like(key), torch.zeros_like(value, dtype=key.dtype)
        with torch.autocast(query.device.type, enabled=False):
            for number, (begin, end) in enumerate(_blocks(queries)):
                seen = keys - queries + end
                here = _flat(gradient[:, :, begin:end])
                if kept:
                    shares = kept[number]
                else:
                    shares = _shares(query[:, :, begin:end], key[:, :seen], ctx.scaling).to(products)
                of_value[:, :seen] += torch.bmm(shares.transpose(1, 2), here)
                change = torch.bmm(here, value[:, :seen].transpose(1, 2))
                of_scores = change.sub_(_flat(mean[:, :, begin:end])).mul_(shares)
                found = torch.bmm(of_scores, narrow_key[:, :seen])
                of_query[:, :, begin:end] = found.view(*query.shape[:2], end - begin, -1)
                of_key[:, :seen] += torch.bmm(of_scores.transpose(1, 2), _flat(narrow_query[:, :, begin:end]))
        return (
            of_query.mul_(ctx.scaling).view(batch, -1, *query.shape[2:]),
            of_key.mul_(ctx.scaling).view(batch, -1, *key.shape[1:]),
            of_value.to(products).view(batch, -1, *value.shape[1:]),
            *(None, None),
        )


def _blocks(queries: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + QUERIES, queries)) for begin in range(0, queries, QUERIES)]


def _flat(one: Tensor) -> Tensor:
    """Reshape (groups, heads, queries, …) to (groups, heads·queries, …)."""
    return one.reshape(one.shape[0], -1, one.shape[-1])


def _shares(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Softmax of the scores, 0 for future keys, of shape (groups, heads·queries, keys).

    The queries are the last of the keys' positions. PyTorch's fused softmax takes half the time of its exp.
    """
    queries, keys = query.shape[2], key.shape[1]
    nothing = query.new_empty(())
    scores = torch.baddbmm(nothing, _flat(query), key.transpose(1, 2), beta=0, alpha=scaling)
    future = torch.full((queries, queries), -torch.inf, device=key.device).triu_(1)
    scores.view(*query.shape[:3], keys)[..., keys - queries :] += future
    return scores.softmax(-1)


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, mask)
