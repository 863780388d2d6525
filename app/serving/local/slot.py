"""Builds the model of one version: a clone of the base model with the version's LoRA weights.

The clone shares every tensor with the base, so a change to the base would affect every version.
"""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import inject_adapter_in_model, set_peft_model_state_dict
from transformers import DynamicCache

from app.serving.adapter_files import read_config, read_tensors, refusal
from app.serving.backend import ServedVersion
from app.serving.local.plain_engine import next_logits
from trainer.engine.fast.layers import is_vanilla
from trainer.engine.fast.lora import lora_forward

TRIAL_TOKENS = 8
AVAILABLE_THREADS = torch.get_num_threads()
# Limits for a layer's largest matrix. With fewer weights, reading them takes a fraction of a millisecond;
# with fewer multiplications, so does the arithmetic. Waking a second thread takes as long (see
# app/__init__.py). Measured on SmolLM2-135M (0.9 million weights): 16 tokens take 54 ms with one thread and
# 71 with two, one token 35 and 55; 256 tokens are faster with two.
SMALL_MATRIX = 4_000_000
SMALL_PRODUCT = 32_000_000


def build_model(base: Any, version: ServedVersion) -> Any:
    """The version's model; raises ArtifactRefused naming the version, what is wrong and the remedy."""
    if version.adapter is None:
        return _clone(base)
    tensors = read_tensors(version)
    config = read_config(version)
    clone = _clone(base)
    try:
        # low_cpu_mem_usage leaves the LoRA tensors empty, so that none silently keeps a random value.
        adapted = inject_adapter_in_model(config, clone, low_cpu_mem_usage=True)
        result: Any = set_peft_model_state_dict(adapted, tensors, low_cpu_mem_usage=True)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise refusal(version, f"it does not fit the base model ({error})") from error
    if result.unexpected_keys:
        raise refusal(version, f"the base model has no place for {result.unexpected_keys[0]}")
    if missing := [name for name, tensor in adapted.named_parameters() if tensor.is_meta]:
        raise refusal(version, f"it lacks {missing[0]}")
    for layer in adapted.modules():
        if is_vanilla(layer):
            # As in training. PEFT adds the adapter's term to a rounded product: bf16 loses a young adapter's.
            layer.forward = partial(lora_forward, layer)
    return adapted.to(base.device).eval()


def limit_threads(model: Any, available: int = AVAILABLE_THREADS) -> None:
    """Make a small model on the CPU use one thread per forward pass, unless the pass has many tokens."""
    config = model.config.get_text_config()
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    weights = int(config.hidden_size * wide)

    def choose(_model: Any, _arguments: Any, inputs: dict[str, Any]) -> None:
        needed = 1 if inputs["input_ids"].numel() <= SMALL_PRODUCT // weights else available
        if torch.get_num_threads() != needed:
            torch.set_num_threads(needed)  # for the thread that runs the model

    if model.device.type == "cpu" and weights < SMALL_MATRIX and available > 1:
        model.register_forward_pre_hook(choose, with_kwargs=True)


@dataclass(frozen=True)
class Trial:
    """A short greedy reply by a model alone: `logits` is (tokens, vocabulary), one row for each token."""

    prompt: list[int]
    tokens: list[int]
    logits: torch.Tensor


def try_model(model: Any, version: ServedVersion, prompt: Sequence[int]) -> Trial:
    """Let the model continue the prompt; raises ArtifactRefused unless every logit is finite."""
    cache = DynamicCache(config=model.config)
    pending, tokens, rows = list(prompt), [], []
    try:
        with torch.inference_mode():
            for _ in range(TRIAL_TOKENS):
                rows.append(next_logits(model, pending, cache).float().cpu())
                pending = [int(rows[-1].argmax())]
                tokens += pending
    except (ValueError, RuntimeError, TypeError) as error:
        raise refusal(version, f"a first try of it failed ({error})") from error
    logits = torch.stack(rows)
    if not bool(torch.isfinite(logits).all()):
        raise refusal(version, "its first try gave logits that are not finite")
    return Trial(list(prompt), tokens, logits)


def _clone(base: Any) -> Any:
    """A copy of the modules and configuration that shares the tensors."""
    return copy.deepcopy(base, {id(t): t for t in itertools.chain(base.parameters(), base.buffers())})
