"""Renders an adapter's model card: what it is, how it was trained, and how to load it. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from storage.settings.serving import DEFAULT_MODEL
from trainer.text import counted

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(lineage: Mapping[str, Any]) -> str:
    """README.md for an adapter with this lineage, in the format of the Hugging Face hub."""
    settings, training = lineage["settings"], lineage["training"]
    counts, weights, base = lineage["trained_on"], lineage["weights"], lineage["base_model"]
    full = settings["tuning"] == "full"
    together = f" × {training['processes']} processes," if training["processes"] > 1 else ""
    noise = training["noise_floor"]
    head = ModelCardData(
        library_name="transformers" if full else "peft",
        pipeline_tag="text-generation",
        # The hub expects a hub id here, not a local folder.
        base_model=base if HUB_ID.fullmatch(base) else None,
        tags=["kto", settings["tuning"], "thumbloop"],
    )
    return f"""---
{head.to_yaml()}
---

# A Thumbloop {"model" if full else "adapter"}

{"Every weight of" if full else "A LoRA adapter for"} `{base}`, trained with
[KTO](https://arxiv.org/abs/2402.01306) on {counts["up"]} desirable and {counts["down"]} undesirable examples
from people's feedback.

## Load it

```python
{_code(base, full)}
```

## Training

| | |
|---|---|
| Objective | `{settings["loss_type"]}`, β {settings["beta"]}; reference: {_reference(lineage)} |
| Weights | desirable {weights["desirable"]:.3f}, undesirable {weights["undesirable"]:.3f} |
| Data | {_origin(lineage)} |
| Sources | {", ".join(f"{name} {count}" for name, count in lineage["sources"].items())} |
| Trained | {"every weight" if full else f"LoRA of rank {settings['lora_rank']} on all linear layers"} |
| Learning rate | {settings["learning_rate"]:g} |
| Batch | {settings["batch_size"]} × {settings["gradient_accumulation"]}{together} examples \
of at most {settings["max_length"]} tokens |
| Epochs | {settings["epochs"]:g}, {counted(training["steps"], "step")} |
| Seed | {settings["seed"]} |
| Precision | {settings["precision"]} |
| Engine | {training["engine"]} |

## Result

| | |
|---|---|
| Loss, mean over the steps | {training["mean_loss"]:.4f} |
| Loss of the last step | {training["last_loss"]:.4f} |
| Noise floor of the reward | {"not measured" if noise is None else f"{noise:.2g} nats"} |

`lineage.json` has all of this for programs, and which examples these were.
"""


def _code(base: str, full: bool) -> str:
    if full:
        return """from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("this folder")"""
    # The default model is not on any hub: Thumbloop converts it into its data directory.
    path = f"data/models/{base}" if base == DEFAULT_MODEL else base
    return f"""from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{path}")
model = PeftModel.from_pretrained(base, "this folder")"""


def _reference(lineage: Mapping[str, Any]) -> str:
    start = lineage["continued_from"]
    return f"the adapter of {start['version']}, where training began" if start else "the base model"


def _origin(lineage: Mapping[str, Any]) -> str:
    if "data" in lineage:
        return f"`{lineage['data']['file']}`, SHA-256 of its rows {lineage['data']['sha256']}"
    snapshot = lineage["snapshot"]
    return (
        f"training run {lineage['run_id']}, votes up to event {snapshot['event_id']}, "
        f"SHA-256 {snapshot['sha256']}"
    )
