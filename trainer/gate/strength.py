"""Writes the chosen strength into an adapter."""

from pathlib import Path

from safetensors.torch import load_file, save_file

from storage.registry.artifacts import WEIGHTS

OUTPUT = "lora_B"  # the second matrix of each pair: their product is what the adapter adds


def scale_adapter(folder: Path, strength: float) -> None:
    """Multiply what a LoRA adapter adds to each layer by `strength`, in its file.

    Its configuration stays as it is, so that any program that loads the adapter gets the same model.
    """
    tensors = load_file(folder / WEIGHTS)
    scaled = {name: tensor * strength if OUTPUT in name else tensor for name, tensor in tensors.items()}
    save_file(scaled, folder / WEIGHTS, metadata={"format": "pt"})
