"""What of a model is trained: adapters on it, adapters on it in 4 bits, or every weight of it.

Loads the model accordingly. Knows no rows and no database.
"""

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

EXTRA = "qlora"
# Raised with each change of the engine that changes a log-probability beyond its last digits: references of
# the old arithmetic beside a policy of the new one would bias every reward.
ARITHMETIC = 1


def load_for_training(source: BaseModelSource, settings: Settings) -> tuple[Any, Any]:
    """The model and its tokenizer; raises BadSetting where this machine cannot tune in that way.

    Every weight is trained in fp32, whatever the products are computed in: AdamW's steps are smaller than
    what bf16 can add to a weight. Products of a base in 4 bits are in bf16 or fp16, never in fp32.
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
    """The log-probabilities of a reference that are kept across trainings, unless the settings keep none.

    Their name has what they depend on: the weights of the model (`fingerprint`), their formats, the device,
    and the code that computes them. `of` names what else the reference is, an adapter for example.
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
    """For runs whose result is served: raises BadSetting."""
    if settings.tuning == "full":
        raise BadSetting(
            "THUMBLOOP_TUNING=full: versions that are served are adapters on one base model; "
            "set lora or qlora.",
            field="tuning",
        )


def _check_qlora(source: BaseModelSource) -> None:
    if sharded_by():
        raise BadSetting(
            "THUMBLOOP_TUNING=qlora: FSDP would leave weights of 4 bits whole in each process; launch "
            "without it, or set lora.",
            field="tuning",
        )
    if source.device.type != "cuda":
        raise BadSetting(
            "THUMBLOOP_TUNING=qlora: that is for CUDA GPUs, and this machine has none; set lora.",
            field="tuning",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadSetting(
            f"THUMBLOOP_TUNING=qlora needs bitsandbytes, which is not installed: "
            f"`pip install 'thumbloop[{EXTRA}]'`, or set lora.",
            field="tuning",
        )
