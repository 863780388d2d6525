"""Replaces a model's layers with versions that copy less and give the same numbers up to rounding.

PEFT's layers and PyTorch's CPU attention copy and convert more than they multiply. While `fast_layers` is
open, vanilla LoRA layers, feed-forwards, norms and plain causal attention run through `lora.py`,
`attention.py` and the functions here. Layers that are not vanilla are not replaced.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners import lora
from torch import Tensor, nn
from transformers.activations import SiLUActivation

from trainer.engine.fast.attention import ATTENTION
from trainer.engine.fast.lora import gated_forward, lora_forward


@contextmanager
def fast_layers(model: nn.Module) -> Iterator[None]:
    """While open, replace the layers of a model, or of a PEFT model's base, that have a faster equivalent."""
    layers = [module for module in model.modules() if is_vanilla(module)]
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    usual = base.config._attn_implementation
    try:
        for layer in layers:
            layer.forward = partial(lora_forward, layer)
        for module in list(model.modules()):
            fast = _gated(module) or _norm(module)
            if fast is not None:
                module.forward = fast
                layers.append(module)
        if usual == "sdpa" and base.device.type == "cpu":
            base.set_attn_implementation(ATTENTION)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
        base.set_attn_implementation(usual)


def is_vanilla(module: Any) -> bool:
    """Whether the module is a plain linear layer with plain LoRA adapters."""
    if type(module) is not lora.Linear or type(module.base_layer) is not nn.Linear:
        return False
    return (
        bool(module.lora_A)
        and not module.lora_variant
        and not any(module.lora_bias.values())
        and not any(getattr(dropout, "p", 0) for dropout in module.lora_dropout.values())
    )


def _gated(module: Any) -> Callable[..., Tensor] | None:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(map(is_vanilla, parts)) or not isinstance(
        getattr(module, "act_fn", None), nn.SiLU | SiLUActivation
    ):
        return None
    return _if_same(module, partial(gated_forward, module), parts[0].in_features)  # type: ignore[union-attr]


def _norm(module: Any) -> Callable[..., Tensor] | None:
    """A faster forward for an RMS norm in fp32 with a frozen weight, or None."""
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if (
        not isinstance(epsilon, float)
        or not isinstance(weight, nn.Parameter)
        or weight.requires_grad
        or weight.dtype != torch.float32
        or weight.ndim != 1
        or len(list(module.parameters())) > 1
    ):
        return None
    return _if_same(module, partial(_norm_forward, module.forward, weight, epsilon), len(weight))


def _if_same(module: nn.Module, fast: Callable[..., Tensor], width: int) -> Callable[..., Tensor] | None:
    """`fast` if it gives the module's result, else None: layers of one name differ between models."""
    device = next(module.parameters()).device
    probe = torch.randn(1, 2, width, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        with torch.no_grad():
            expected, found = module(probe), fast(probe)
    except Exception:  # its forward needs more than the hidden states
        return None
    if not isinstance(expected, Tensor) or found.dtype != expected.dtype:
        return None
    off = (found.float() - expected.float()).norm()
    return fast if off <= 2 * torch.finfo(expected.dtype).eps * expected.float().norm() else None


def _norm_forward(usual: Callable[..., Tensor], weight: Tensor, epsilon: float, x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        return usual(x)
    found: Tensor = _Norm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return found


class _Norm(torch.autograd.Function):
    """weight · x / √(mean(x²) + ε) over the last dimension, in fp32, with a gradient for x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        factor = length.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, factor)
        return (x * factor).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factor = ctx.saved_tensors
        weighted = gradients[0] * weight
        along = (weighted * x).mean(-1, keepdim=True).mul_(factor.pow(3))
        return weighted.mul_(factor).addcmul_(x, along, value=-1), None, None
