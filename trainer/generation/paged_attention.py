"""Attention over a paged cache on a CPU: every reply attends to its own keys only.

Without flash attention the library multiplies all queries of the batch with all keys and masks all but
the diagonal blocks, so the cost grows with the square of the number of replies. Here each reply's keys
are gathered into a row of their own: 16 replies together get a third more tokens per second.
"""

import itertools
import threading
from typing import Any, TypeVar

import torch
from torch.nn.functional import scaled_dot_product_attention as attend
from transformers import AttentionInterface
from transformers.generation.continuous_batching.cache import group_layers_by_attn_type
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "thumbloop_paged"
FULL_ATTENTION = "full_attention"


def suits(model: Any) -> bool:
    """Whether the model uses the usual attention over all earlier tokens, which is all this computes."""
    text = model.config.get_text_config()
    usual = model.device.type == "cpu" and text._attn_implementation == "sdpa"
    return usual and list(group_layers_by_attn_type(text)) == [FULL_ATTENTION]


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cache: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for transformers' AttentionInterface: query is (1, heads, queries, width), the result
    (1, queries, heads, width). Without a paged cache it calls the library's own.
    """
    if cache is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if kwargs["max_length_q"] == 1 and kwargs["read_index"][0].numel():
        rows = _made_once(_Rows, kwargs, query.dtype, 1)
        kwargs["read_index"] = [rows.index]
        key, value = cache.update(key, value, module.layer_idx, kwargs)
        return _attend_in_rows(query, key, value, rows, scaling), None
    pieces = _made_once(_Pieces, kwargs, query.dtype, query.shape[1] // key.shape[1])
    key, value = cache.update(key, value, module.layer_idx, kwargs)
    outputs = [
        _attend_in_a_piece(query[:, :, queries], key[:, :, keys], value[:, :, keys], mask, scaling)
        for queries, keys, mask in pieces.all
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


class _Rows:
    """Where each reply's keys are, as rows of equal length; used while every reply decodes one token."""

    def __init__(self, kwargs: dict[str, Any], dtype: torch.dtype, _groups: int) -> None:
        ends = kwargs["cu_seq_lens_k"][FULL_ATTENTION].tolist()
        lengths = [end - start for start, end in itertools.pairwise(ends)]
        pieces = kwargs["read_index"][0].split(lengths)
        self.count, self.longest = len(lengths), max(lengths)
        # The padding points at the cache's first token: it is read and then masked.
        self.index = torch.nn.utils.rnn.pad_sequence(list(pieces), batch_first=True).view(-1)
        self.mask: torch.Tensor | None = None
        if min(lengths) < self.longest:
            own = torch.arange(self.longest)[None] < torch.tensor(lengths)[:, None]
            self.mask = torch.zeros(self.count, 1, 1, self.longest, dtype=dtype)
            self.mask.masked_fill_(~own[:, None, None], -torch.inf)


class _Pieces:
    """Where each reply's queries and keys are; used while some replies read their prompts.

    `all` has per reply the query slice, the key slice and a mask (groups × queries, keys) to add to the
    scores, or None if there are no earlier keys.
    """

    def __init__(self, kwargs: dict[str, Any], dtype: torch.dtype, groups: int) -> None:
        query_ends = itertools.pairwise(kwargs["cu_seq_lens_q"].tolist())
        key_ends = itertools.pairwise(kwargs["cu_seq_lens_k"][FULL_ATTENTION].tolist())
        self.all: list[tuple[slice, slice, torch.Tensor | None]] = []
        for (q0, q1), (k0, k1) in zip(query_ends, key_ends, strict=True):
            queries, keys, mask = q1 - q0, k1 - k0, None
            if keys > queries:
                later = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
                mask = torch.zeros(queries, keys, dtype=dtype).masked_fill_(later, -torch.inf)
                mask = mask.repeat(groups, 1)
            self.all.append((slice(q0, q1), slice(k0, k1), mask))


_this_step = threading.local()  # every engine runs in a thread of its own

Plan = TypeVar("Plan", _Rows, _Pieces)


def _made_once(kind: type[Plan], kwargs: dict[str, Any], dtype: torch.dtype, groups: int) -> Plan:
    """The plan of this step, made by its first layer; all layers get the same `read_index` list."""
    if getattr(_this_step, "index", None) is not kwargs["read_index"]:
        _this_step.plan = kind(kwargs, dtype, groups)
        _this_step.index = kwargs["read_index"]
    plan: Plan = _this_step.plan
    return plan


def _attend_in_rows(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: _Rows, scaling: float | None
) -> torch.Tensor:
    _, heads, _, width = query.shape
    key_heads = key.shape[1]
    # Query heads that share a key head are treated as its queries, which saves copying the keys.
    query = query[0].transpose(0, 1).reshape(rows.count, key_heads, heads // key_heads, width)
    key, value = (
        states[0].transpose(0, 1).view(rows.count, rows.longest, key_heads, -1).transpose(1, 2)
        for states in (key, value)
    )
    output = attend(query, key, value, attn_mask=rows.mask, scale=scaling)
    return output.reshape(1, rows.count, heads, -1)


def _attend_in_a_piece(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    if mask is None:
        return attend(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    _, heads, count, width = query.shape
    # As in _attend_in_rows: query heads that share a key head are treated as its queries.
    query = query.reshape(1, key.shape[1], -1, width)
    return attend(query, key, value, attn_mask=mask, scale=scaling).view(1, heads, count, -1)


AttentionInterface.register(NAME, paged_attention)
