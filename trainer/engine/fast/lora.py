"""Linear layers with LoRA adapters, and gated feed-forwards, with fewer copies than PEFT's.

Each product is in the format of the base weight.
"""

import threading
import weakref
from typing import Any

import torch
from torch import Tensor, nn


def lora_forward(layer: Any, x: Tensor) -> Tensor:
    """The `forward` of a vanilla `peft.tuners.lora.Linear`."""
    if torch.is_autocast_enabled(x.device.type):  # entering the context each time would slow replies
        with torch.autocast(x.device.type, enabled=False):
            return _forward(layer, x)
    return _forward(layer, x)


def _forward(layer: Any, x: Tensor) -> Tensor:
    base = layer.base_layer
    if layer.disable_adapters:
        return nn.functional.linear(x.to(base.weight.dtype), base.weight, base.bias)
    narrow = _narrow(x, base.weight.dtype)
    if not torch.is_grad_enabled():  # autograd's bookkeeping would take as long as the adapter's products
        result, _ = _with_lora(narrow.reshape(-1, x.shape[-1]), *_parts(layer))
        return result.view(*x.shape[:-1], -1)
    trained: Tensor = _LoraLinear.apply(x, narrow, *_parts(layer))  # type: ignore[no-untyped-call]
    return trained


def gated_forward(module: Any, x: Tensor) -> Tensor:
    """The `forward` of a feed-forward down(silu(gate(x)) · up(x)) of vanilla LoRA layers.

    Neither the activation nor the product is kept: the backward pass computes them again.
    """
    gate, up = module.gate_proj(x), module.up_proj(x)
    if module.down_proj.disable_adapters:
        found: Tensor = module.down_proj(nn.functional.silu(gate) * up)
        return found
    with torch.autocast(x.device.type, enabled=False):
        result: Tensor = _GatedLoraLinear.apply(gate, up, *_parts(module.down_proj))  # type: ignore[no-untyped-call]
    return result


def _parts(layer: Any) -> tuple[Any, ...]:
    """The weights of a layer, as `_with_lora` takes them."""
    (adapter,) = layer.active_adapters
    base = layer.base_layer
    return (
        *(base.weight, base.bias),
        *(layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, layer.scaling[adapter]),
    )


class _Last(threading.local):
    source: "weakref.ref[Tensor] | None" = None
    version = 0
    narrow = torch.empty(0)


_last = _Last()


def _narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` cast to `dtype`, without gradient. Layers that read the same input in turn share one copy."""
    if x.dtype == dtype or x.is_inference():
        return x.detach().to(dtype)
    known = _last.source is not None and _last.source() is x and _last.version == x._version
    if not known or _last.narrow.dtype != dtype:
        _last.source, _last.version, _last.narrow = weakref.ref(x), x._version, x.detach().to(dtype)
    return _last.narrow


class _LoraLinear(torch.autograd.Function):
    """x·Wᵀ + s·(x·Aᵀ)·Bᵀ + bias, with gradients for x, A and B.

    `narrow` is x in the format of W, and `layer` what `_parts` gives.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, narrow: Tensor, *layer: Any) -> Tensor:
        flat = narrow.reshape(-1, x.shape[-1])
        result, down = _with_lora(flat, *layer)
        weight, _, lora_a, lora_b, ctx.scaling = layer
        ctx.save_for_backward(flat, down, weight, lora_a, lora_b)
        ctx.shape, ctx.format = x.shape, x.dtype
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        of_x, of_a, of_b = _gradients(
            gradient, *ctx.saved_tensors, scaling=ctx.scaling, of_x=ctx.needs_input_grad[0]
        )
        if of_x is not None:
            of_x = of_x.to(ctx.format).view(ctx.shape)
        return of_x, None, None, None, of_a, of_b, None


class _GatedLoraLinear(torch.autograd.Function):
    """Like _LoraLinear, for x = silu(gate)·up, with gradients for gate, up, A and B."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, *layer: Any) -> Tensor:
        x = nn.functional.silu(gate).mul_(up)
        result, down = _with_lora(x.view(-1, x.shape[-1]), *layer)
        weight, _, lora_a, lora_b, ctx.scaling = layer
        ctx.save_for_backward(gate, up, down, weight, lora_a, lora_b)
        return result.view(*gate.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, *others = ctx.saved_tensors
        (gradient,) = gradients
        active = nn.functional.silu(gate)
        flat = (active * up).view(-1, gate.shape[-1])
        of_x, of_a, of_b = _gradients(gradient, flat, *others, scaling=ctx.scaling)
        assert of_x is not None
        of_x = of_x.view(gate.shape)
        of_up = active.mul_(of_x)
        of_gate = torch.ops.aten.silu_backward(of_x.mul_(up), gate)
        return of_gate, of_up, None, None, of_a, of_b, None


def _with_lora(
    flat: Tensor, weight: Tensor, bias: Tensor | None, lora_a: Tensor, lora_b: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """The layer's result and flat·Aᵀ, for `flat` of shape (positions, in).

    The adapter's small term is computed first, and the large product is added to it before rounding. In the
    other order bf16, which keeps 8 bits, would round a young adapter's term away.
    """
    down = flat @ lora_a.to(weight.dtype).t()
    result = down @ (lora_b * scaling).to(weight.dtype).t()
    if bias is not None:
        result += bias
    return result.addmm_(flat, weight.t()), down


def _gradients(
    gradient: Tensor,
    flat: Tensor,
    down: Tensor,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    *,
    scaling: float,
    of_x: bool = True,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients for `flat` (None unless `of_x`), A and B."""
    with torch.autocast(flat.device.type, enabled=False):
        gradient = gradient.reshape(-1, weight.shape[0]).to(weight.dtype)
        up = gradient @ (lora_b * scaling).to(weight.dtype)
        of_a = (up.t() @ flat).to(lora_a.dtype)
        of_b = (gradient.t() @ down).to(lora_b.dtype).mul_(scaling)
        found = (up @ lora_a.to(weight.dtype)).addmm_(gradient, weight) if of_x else None
    return found, of_a, of_b
