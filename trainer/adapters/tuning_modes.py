"""Loads the model for a tuning mode: LoRA, LoRA on a 4-bit base (QLoRA), or full fine-tuning."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import BitsAndBytesConfig

from storage.errors import BadSetting
from storage.settings import Settings
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.model.base_model import BaseModelSource, load_model
from trainer.model.fsdp import sharded_by

# Increase this when a change to the engine alters log-probabilities beyond their last digits. Cached
# references from the old code combined with a policy from the new code would bias every reward.
ARITHMETIC = 1


def load_for_training(source: BaseModelSource, settings: Settings) -> tuple[Any, Any]:
    """The model and its tokenizer; raises BadSetting if this machine does not support the tuning mode.

    Full fine-tuning keeps weights in fp32, whatever the format of the products: AdamW's steps are smaller
    than bf16 can add to a weight. Products of a 4-bit base are in bf16 or fp16, never in fp32.
    """
    if settings.tuning == "full":
        return load_model(source, dtype=torch.float32)
    if settings.tuning == "lora":
        return load_model(source)
    _check_qlora(source)
    dtype = torch.bfloat16 if source.dtype == torch.float32 else source.dtype
    quantization = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return load_model(source, dtype=dtype, quantization=quantization)


def open_references(
    folder: Path, source: BaseModelSource, fingerprint: str, settings: Settings, *, of: str = ""
) -> ReferenceCache | None:
    """Open the cache of reference log-probabilities, or None if the settings disable it.

    The key has everything they depend on: the weights of the model (`fingerprint`), their formats, the
    device, and the versions of the code. `of` identifies the rest of the reference, for example an adapter.
    """
    if not settings.reference_cache_mb:
        return None
    kept = {"qlora": "4 bits", "full": "fp32"}.get(settings.tuning, str(source.dtype))
    device = torch.cuda.get_device_name() if source.device.type == "cuda" else source.device.type
    code = f"{ARITHMETIC} torch {torch.__version__} transformers {transformers.__version__}"
    name = f"{fingerprint} {kept} {source.dtype} {device} {code}"
    return ReferenceCache(
        folder / "references.db", model=f"{name} {of}".rstrip(), max_mb=settings.reference_cache_mb
    )


def refuse_full(settings: Settings) -> None:
    """Raise BadSetting for full fine-tuning in a run, whose result is served as an adapter."""
    if settings.tuning == "full":
        raise BadSetting(
            "THUMBLOOP_TUNING=full: versions that are served are adapters on one base model; "
            "set lora or qlora.",
            field="tuning",
        )


def _check_qlora(source: BaseModelSource) -> None:
    why = None
    if sharded_by():
        why = "FSDP would leave weights of 4 bits whole in each process; launch without it, or set lora"
    elif source.device.type != "cuda":
        why = "that is for CUDA GPUs, and this machine has none; set lora"
    elif importlib.util.find_spec("bitsandbytes") is None:
        why = "that needs bitsandbytes; run `pip install 'thumbloop[qlora]'`, or set lora"
    if why is not None:
        raise BadSetting(f"THUMBLOOP_TUNING=qlora: {why}.", field="tuning")
