"""What an adapter folder says about itself: lineage.json for programs, README.md for people.

Adapters get copied, so neither names a person or quotes a chat: only message ids, counts and hashes.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from storage.tables import TrainingRun
from trainer.snapshot import Snapshot
from trainer.start import Start
from trainer.tokenise import Row
from trainer.weights import Weights

LIBRARIES = ("torch", "transformers", "trl", "peft")


def write_lineage(
    folder: Path,
    *,
    run: TrainingRun,
    settings: Mapping[str, Any],
    snapshot: Snapshot,
    rows: Sequence[Row],
    weights: Weights,
    training: Mapping[str, Any],
    start: Start | None,
) -> None:
    ups = sum(row.label for row in rows)
    lineage = {
        "run_id": run.id,
        "base_model": settings["model"],
        "snapshot": {"event_id": snapshot.event_id, "sha256": snapshot.sha256},
        "left_out": dict(snapshot.left_out),
        "continued_from": start.to_dict() if start else None,
        "trained_on": {"up": ups, "down": len(rows) - ups},
        "sources": dict(sorted(Counter(row.example.source for row in rows).items())),
        "message_ids": [row.example.message_id for row in rows],
        "weights": weights.to_dict(),
        "settings": dict(settings),
        "training": dict(training),
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    (folder / "lineage.json").write_text(json.dumps(lineage, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").write_text(_card(lineage))


def _card(lineage: dict[str, Any]) -> str:
    settings, training = lineage["settings"], lineage["training"]
    counts, weights = lineage["trained_on"], lineage["weights"]
    start = lineage["continued_from"]
    reference = f"the adapter of {start['version']}, where training began" if start else "the base model"
    return f"""---
library_name: peft
pipeline_tag: text-generation
tags:
- kto
- lora
- thumbloop
---

# A Thumbloop adapter

A LoRA adapter of rank {settings["lora_rank"]} for `{lineage["base_model"]}`, trained with KTO on
{counts["up"]} desirable and {counts["down"]} undesirable examples from people's feedback.

| | |
|---|---|
| Objective | {settings["loss_type"]}, β {settings["beta"]}, reference: {reference} |
| Weights | desirable {weights["desirable"]:.3f}, undesirable {weights["undesirable"]:.3f} |
| Learning rate | {settings["learning_rate"]}, {settings["epochs"]} epochs, {training["steps"]} steps |
| Last loss | {training["last_loss"]:.4f} |
| Sources | {", ".join(f"{name} {count}" for name, count in lineage["sources"].items())} |
| Training run | {lineage["run_id"]} |
| Snapshot of the votes | event {lineage["snapshot"]["event_id"]}, SHA-256 {lineage["snapshot"]["sha256"]} |

`lineage.json` has all settings and the ids of the messages. Load it with
`PeftModel.from_pretrained(base_model, folder)`.
"""
