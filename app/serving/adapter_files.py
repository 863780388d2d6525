"""Reads an adapter's files: safetensors and JSON only, checked without a model.

An adapter is refused if it would change anything but its own LoRA tensors.
"""

import json

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file

from app.serving.backend import ServedVersion
from storage.errors import ArtifactRefused
from storage.registry.artifacts import WEIGHTS

PEFT_PREFIX = "base_model.model."  # of tensor names in a saved adapter: PEFT's own wrappers


def check_adapter(version: ServedVersion) -> None:
    """Raise ArtifactRefused for files that no model can use."""
    read_tensors(version)
    read_config(version)


def read_tensors(version: ServedVersion) -> dict[str, torch.Tensor]:
    try:
        tensors = load_file(version.folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise refusal(version, f"{WEIGHTS} cannot be read ({error})") from error
    if not tensors:
        raise refusal(version, f"{WEIGHTS} holds no tensors")
    for name, tensor in tensors.items():
        if ".lora_A." not in name and ".lora_B." not in name:
            raise refusal(version, f"{name} is not a LoRA tensor")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise refusal(version, f"{name} holds values that are not finite numbers")
    return {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()}


def read_config(version: ServedVersion) -> LoraConfig:
    """The adapter's configuration, safe keys only: others can alter base tensors or run code."""
    try:
        stored = json.loads((version.folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise refusal(version, f"adapter_config.json cannot be read ({error})") from error
    if not isinstance(stored, dict) or stored.get("peft_type") != "LORA":
        raise refusal(version, "adapter_config.json does not describe a LoRA adapter")
    if stored.get("bias", "none") != "none" or stored.get("modules_to_save") or stored.get("use_dora"):
        raise refusal(version, "it trains more than LoRA's own tensors (bias, modules_to_save or use_dora)")
    shape = ("r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern")
    limits = ("layers_to_transform", "layers_pattern", "exclude_modules", "fan_in_fan_out")
    taken = {key: stored[key] for key in (*shape, *limits) if stored.get(key) is not None}
    try:
        return LoraConfig(task_type="CAUSAL_LM", inference_mode=True, **taken)
    except (ValueError, TypeError) as error:
        raise refusal(version, f"adapter_config.json is not valid ({error})") from error


def refusal(version: ServedVersion, why: str) -> ArtifactRefused:
    place = f" ({version.adapter})" if version.adapter else ""
    return ArtifactRefused(
        f"Model version {version.name}{place} is refused: {why}. "
        f"Deploy another version, restore this one from a backup, or train again."
    )
