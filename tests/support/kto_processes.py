"""One of several processes that train together: `python -m tests.support.kto_processes MODEL FOLDER NAMES`.

Writes what the first of them reports of each step, and the adapter that it ends with.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from storage.examples.weights import Weights
from storage.settings import Settings
from tests.support.examples import example
from trainer.dataset.tokenise import TokenisedExample, tokenise
from trainer.engine import kto
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.model.base_model import load_model, resolve

WEIGHTS = Weights(desirable=0.8, undesirable=1.3)
# By engine: rows. Of 13 one comes twice, to make no block of one; then there are 7 blocks for two processes.
TRAININGS = {"trl": 13, "shared-prefix": 13, "shared-prefix, whole": 12}


def settings(model: str, folder: Path) -> Settings:
    return Settings(
        **{"data_dir": folder, "model": model, "precision": "fp32", "learning_rate": 1e-2},
        **{"lora_rank": 4, "batch_size": 2, "epochs": 2.0, "nll_weight": 0.0},
    )


def rows(tokenizer: Any, count: int) -> list[TokenisedExample]:
    """Only two are voted down, so that most blocks have no such row."""
    examples = [
        example(f"What is {n} plus {n}?", f"It is {2 * n}.", label=n not in (3, 8), chat_id=str(n))
        for n in range(count)
    ]
    return tokenise(tokenizer, examples, max_length=256)[0]


def main() -> None:
    model, folder, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    for name in names:
        chosen = settings(model, folder).model_copy(update={"engine": name.partition(",")[0]})
        base, tokenizer = load_model(resolve(chosen))
        steps: list[dict[str, Any]] = []
        trained, result = kto.train(
            base,
            tokenizer,
            rows(tokenizer, TRAININGS[name]),
            weights=WEIGHTS,
            settings=chosen,
            output_dir=folder / name,
            references=ReferenceCache(folder / "references.db", model="tiny", max_mb=1),
            progress=lambda state, steps=steps: steps.append(state) if "loss" in state else None,
        )
        if steps:
            (folder / f"{name}.json").write_text(json.dumps({"engine": result.engine, "steps": steps}))
            weights = {n: p.detach() for n, p in trained.named_parameters() if p.requires_grad}
            save_file(weights, folder / f"{name}.safetensors")
    torch.distributed.destroy_process_group()
