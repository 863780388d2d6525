"""Scaling an adapter in its folder."""

from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from tests.support.adapters import build_adapter
from trainer.gate.strength import scale_adapter


def logits(model_folder: Path, adapter: Path | None, factor: float = 1.0) -> torch.Tensor:
    """What the model predicts; the scaling of its adapter, as PEFT applies it, is multiplied by `factor`."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                layer.scaling["default"] *= factor
    with torch.no_grad():
        found: torch.Tensor = model.eval()(torch.arange(5, 15)[None]).logits
    return found


def test_the_adapter_adds_its_share_of_what_it_added(tiny_model: Path, tmp_path: Path) -> None:
    adapter = build_adapter(tiny_model, tmp_path / "adapter")
    expected, full = (logits(tiny_model, adapter, factor) for factor in (0.3, 1.0))
    scale_adapter(adapter, 0.3)
    torch.testing.assert_close(logits(tiny_model, adapter), expected, rtol=1e-4, atol=1e-4)
    assert (full - expected).abs().max() > 0.1


def test_strength_0_is_the_base_model(tiny_model: Path, tmp_path: Path) -> None:
    adapter = build_adapter(tiny_model, tmp_path / "adapter")
    scale_adapter(adapter, 0.0)
    assert torch.equal(logits(tiny_model, adapter), logits(tiny_model, None))
