"""The gate against the training before it: seconds a row of each, on the default model.

Rows of one chat each, of some 150 tokens, as `tokenise` makes them. The candidate is what was just trained,
the deployed version is the base model, and no reference is known before.
"""

import argparse
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.report import print_report

WORDS = (
    *("a", "river", "light", "stone", "seldom", "carries", "winter", "paper"),
    *("slowly", "north", "until", "morning", "bread", "answers"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16, help="to train on")
    parser.add_argument("--held-out", type=int, default=16)
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with tempfile.TemporaryDirectory(prefix="thumbloop-bench-") as folder:
        print_report("gate", _measure(given.rows, given.held_out, Path(folder)))


def _measure(trained: int, held: int, folder: Path) -> dict[str, Any]:
    from trainer.launch.environment import prepare_process

    prepare_process()  # as each training of the product begins
    from storage.db.tables import ModelVersion
    from storage.examples.weights import Weights
    from storage.registry.artifacts import Artifacts
    from storage.settings import Settings
    from trainer.adapters.tuning_modes import load_for_training
    from trainer.dataset.tokenise import tokenise
    from trainer.engine import kto
    from trainer.gate.compare import compare
    from trainer.model.base_model import resolve

    settings = Settings(data_dir=folder)
    source = resolve(settings)
    model, tokenizer = load_for_training(source, settings)
    rows, _ = tokenise(tokenizer, _examples(trained + held), max_length=settings.max_length)
    weights, shared = Weights(1.0, 1.0), {"settings": settings}
    model, result = kto.train(
        *(model, tokenizer, rows[:trained]),
        weights=weights,
        output_dir=folder / "checkpoints",
        **shared,
    )
    artifacts = Artifacts(folder)
    kto.save_adapter(model, artifacts.staging("run"), base_model=source.name)
    del model
    published = artifacts.seal("run")
    artifacts.publish("run")
    candidate = ModelVersion(
        number=2,
        kind="adapter",
        base_model=source.name,
        path=published.path,
        files=published.files,
        metrics={"training": vars(result)},
    )
    deployed = ModelVersion(number=1, kind="base", base_model=source.name)
    phases: dict[str, float] = {}

    def note(state: dict[str, Any]) -> None:
        phases.setdefault("first row", time.monotonic())

    began = time.monotonic()
    verdict = compare(
        *(candidate, deployed, rows[trained:]),
        source=source,
        artifacts=artifacts,
        references=None,
        report=note,
        weights=weights,
        **shared,
    )
    seconds = time.monotonic() - began
    return {
        "rows": {"trained": trained, "held out": held},
        "tokens a row": sum(row.length for row in rows) / len(rows),
        "seconds a training row": result.seconds_per_row,
        "seconds a held-out row, both versions": seconds / held,
        "seconds until the gate's first row, the model's loading included": phases["first row"] - began,
        "gate to training": seconds / held / result.seconds_per_row,
        "measures": verdict.measures,
    }


def _examples(count: int) -> list[Any]:
    from tests.support.examples import example

    draw = random.Random(0)

    def text(words: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(words))

    return [
        example(
            prompt=[{"role": "user", "content": text(40)}],
            completion=[{"role": "assistant", "content": text(75)}],
            label=number % 3 != 0,
            chat_id=str(number),
        )
        for number in range(count)
    ]


if __name__ == "__main__":
    main()
