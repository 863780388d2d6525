"""Builds the model of one version: a clone of the base model with the version's LoRA weights.

The clone shares every tensor with the base. An adapter is read as safetensors and JSON only, and refused
if it would change anything but its own LoRA tensors: a change to the base would affect every version.
"""

import copy
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import DynamicCache

from app.serving.backend import ServedVersion
from app.serving.local.plain_engine import next_logits
from storage.errors import ArtifactRefused

TRIAL_TOKENS = 8
AVAILABLE_THREADS = torch.get_num_threads()
# Limits for a layer's largest matrix. With fewer weights, reading them takes a fraction of a millisecond;
# with fewer multiplications, so does the arithmetic. Waking a second thread takes as long (see
# app/__init__.py). Measured on SmolLM2-135M (0.9 million weights): 16 tokens take 54 ms with one thread and
# 71 with two, one token 35 and 55; 256 tokens are faster with two.
SMALL_MATRIX = 4_000_000
SMALL_PRODUCT = 32_000_000
PEFT_PREFIX = "base_model.model."  # of tensor names in a saved adapter: PEFT's own wrappers


def build_model(base: Any, version: ServedVersion) -> Any:
    """The version's model; raises ArtifactRefused naming the version, what is wrong and the remedy."""
    if version.adapter is None:
        return _clone(base)
    tensors = _read_tensors(version)
    config = _read_config(version)
    clone = _clone(base)
    try:
        # low_cpu_mem_usage leaves the LoRA tensors empty, so that none silently keeps a random value.
        adapted = inject_adapter_in_model(config, clone, low_cpu_mem_usage=True)
        result: Any = set_peft_model_state_dict(adapted, tensors, low_cpu_mem_usage=True)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise _refused(version, f"it does not fit the base model ({error})") from error
    if result.unexpected_keys:
        raise _refused(version, f"the base model has no place for {result.unexpected_keys[0]}")
    if missing := [name for name, tensor in adapted.named_parameters() if tensor.is_meta]:
        raise _refused(version, f"it lacks {missing[0]}")
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


def check_adapter(version: ServedVersion) -> None:
    """Check what can be checked without the base model; raises ArtifactRefused as `build_model` does."""
    _read_tensors(version)
    _read_config(version)


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
        raise _refused(version, f"a first try of it failed ({error})") from error
    logits = torch.stack(rows)
    if not bool(torch.isfinite(logits).all()):
        raise _refused(version, "its first try gave logits that are not finite")
    return Trial(list(prompt), tokens, logits)


def _clone(base: Any) -> Any:
    """A copy of the modules and configuration that shares the tensors."""
    return copy.deepcopy(base, {id(t): t for t in itertools.chain(base.parameters(), base.buffers())})


def _read_tensors(version: ServedVersion) -> dict[str, torch.Tensor]:
    try:
        tensors = load_file(_folder(version) / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise _refused(version, f"adapter_model.safetensors cannot be read ({error})") from error
    if not tensors:
        raise _refused(version, "adapter_model.safetensors holds no tensors")
    for name, tensor in tensors.items():
        if ".lora_A." not in name and ".lora_B." not in name:
            raise _refused(version, f"{name} is not a LoRA tensor")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise _refused(version, f"{name} holds values that are not finite numbers")
    return {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()}


def _read_config(version: ServedVersion) -> LoraConfig:
    """The adapter's configuration, safe keys only: others can alter base tensors or run code."""
    try:
        stored = json.loads((_folder(version) / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _refused(version, f"adapter_config.json cannot be read ({error})") from error
    if not isinstance(stored, dict) or stored.get("peft_type") != "LORA":
        raise _refused(version, "adapter_config.json does not describe a LoRA adapter")
    if stored.get("bias", "none") != "none" or stored.get("modules_to_save") or stored.get("use_dora"):
        raise _refused(version, "it trains more than LoRA's own tensors (bias, modules_to_save or use_dora)")
    shape = ("r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern")
    limits = ("layers_to_transform", "layers_pattern", "exclude_modules", "fan_in_fan_out")
    taken = {key: stored[key] for key in (*shape, *limits) if stored.get(key) is not None}
    try:
        return LoraConfig(task_type="CAUSAL_LM", inference_mode=True, **taken)
    except (ValueError, TypeError) as error:
        raise _refused(version, f"adapter_config.json is not valid ({error})") from error


def _folder(version: ServedVersion) -> Path:
    assert version.adapter is not None
    return version.adapter


def _refused(version: ServedVersion, why: str) -> ArtifactRefused:
    place = f" ({version.adapter})" if version.adapter else ""
    return ArtifactRefused(
        f"Model version {version.name}{place} is refused: {why}. "
        f"Deploy another version, restore this one from a backup, or train again."
    )
