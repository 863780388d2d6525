"""Writes an adapter folder's metadata: lineage.json for programs and README.md for people.

Adapters get copied, so neither file names a person or quotes a chat. They hold only ids, counts and hashes.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from storage.examples.weights import Weights
from storage.settings.serving import DEFAULT_MODEL
from trainer.adapters.parent import ParentAdapter
from trainer.dataset.tokenise import TokenisedExample
from trainer.text import counted

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
LIBRARIES = ("torch", "transformers", "trl", "peft")


def write_lineage(
    folder: Path,
    *,
    origin: Mapping[str, Any],
    settings: Mapping[str, Any],
    rows: Sequence[TokenisedExample],
    weights: Weights,
    training: Mapping[str, Any],
    start: ParentAdapter | None,
) -> None:
    """Write both files. `origin` describes where the rows came from: a run or a file."""
    ups = sum(row.label for row in rows)
    lineage = {
        **origin,
        "base_model": settings["model"],
        "continued_from": start.to_dict() if start else None,
        "trained_on": {"up": ups, "down": len(rows) - ups},
        "sources": dict(sorted(Counter(row.example.source for row in rows).items())),
        "weights": weights.to_dict(),
        "settings": dict(settings),
        "training": dict(training),
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    (folder / "lineage.json").write_text(json.dumps(lineage, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").write_text(model_card(lineage))


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
| Objective | `{settings["loss_type"]}`, β {settings["beta"]}{_likelihood(lineage)}; \
reference: {_reference(lineage)} |
| Weights | desirable {weights["desirable"]:.3f}, undesirable {weights["undesirable"]:.3f} |
| Data | {_origin(lineage)} |
| Sources | {", ".join(f"{name} {count}" for name, count in lineage["sources"].items())} |
| Trained | {"every weight" if full else f"LoRA of rank {settings['lora_rank']} on all linear layers"} |
| Strength | {training.get("strength", 1):g} |
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


def _likelihood(lineage: Mapping[str, Any]) -> str:
    """The additional loss, which runs of earlier versions and the engine `trl` do not have."""
    weight = lineage["settings"].get("nll_weight", 0)
    if not weight or lineage["training"]["engine"] == "trl":
        return ""
    return f", and {weight:g} × the negative log-likelihood of a token of the liked replies"


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
