"""Writes an adapter folder's metadata: lineage.json for programs and README.md for people.

Adapters get copied, so neither file names a person or quotes a chat. They hold only ids, counts and hashes.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from storage.examples.weights import Weights
from trainer.adapters.model_card import model_card
from trainer.adapters.parent import ParentAdapter
from trainer.dataset.tokenise import TokenisedExample

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
