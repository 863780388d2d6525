"""Builds the model of one version: a clone of the base model with the version's LoRA weights.

The clone shares every tensor with the base, so a change to the base would affect every version.
"""

import copy
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from peft import inject_adapter_in_model, set_peft_model_state_dict

from app.serving.adapter_files import read_config, read_tensors, refusal
from app.serving.backend import ServedVersion
from trainer.engine.fast.layers import is_vanilla
from trainer.engine.fast.lora import lora_forward
from trainer.generation.trial import Trial, try_model


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


def try_version(model: Any, version: ServedVersion, prompt: Sequence[int]) -> Trial:
    """Let the model continue the prompt; raises ArtifactRefused unless every logit is finite."""
    try:
        trial = try_model(model, prompt)
    except (ValueError, RuntimeError, TypeError) as error:
        raise refusal(version, f"a first try of it failed ({error})") from error
    if not bool(torch.isfinite(trial.logits).all()):
        raise refusal(version, "its first try gave logits that are not finite")
    return trial


def _clone(base: Any) -> Any:
    """A copy of the modules and configuration that shares the tensors."""
    return copy.deepcopy(base, {id(t): t for t in itertools.chain(base.parameters(), base.buffers())})
