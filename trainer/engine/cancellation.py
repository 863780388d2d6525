"""Stopping a training in mid-step: it is asked at each layer, forward and backward. Knows no reasons."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def interruptible(model: torch.nn.Module, check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before the embeddings and each layer of a transformers model, and where backward comes by.

    What it raises leaves the pass. A padded micro-batch of stock TRL takes a minute on a processor, most of
    it in the backward pass; a single layer takes a second.
    """

    def before(_module: Any, _inputs: Any) -> None:
        check()

    def after(_module: Any, _inputs: Any, found: Any) -> None:
        states = found[0] if isinstance(found, tuple) else found
        if states.requires_grad:
            states.register_hook(lambda _gradient: check())

    hooks = [model.get_input_embeddings().register_forward_pre_hook(before)]  # type: ignore[operator]
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            hooks += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
