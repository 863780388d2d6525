"""One of the processes that train with little memory left, and again without a limit.

`python -m tests.support.limited_memory MODEL FOLDER MIB` writes both lists of losses.
"""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from storage.examples.weights import Weights
from storage.settings import Settings
from tests.support.examples import example
from tests.support.trainings import Steps
from trainer.dataset.tokenise import tokenise
from trainer.engine import kto
from trainer.model.base_model import load_model, resolve


def main() -> None:
    model, folder, free = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) * 2**20
    last = os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
    chosen = {"batch_size": 16, "epochs": 2, "learning_rate": 1e-2, "precision": "fp32"}
    settings = Settings(**{"data_dir": folder, "model": model, **chosen})

    def train(limited: bool) -> list[float]:
        base, tokenizer = load_model(resolve(settings))
        examples = [
            example(f"{n} why " * 100, "Because. " * 30, label=n % 2 == 0, chat_id=str(n)) for n in range(16)
        ]
        rows = tokenise(tokenizer, examples, max_length=1024)[0]
        steps = Steps()
        passes = iter((limited and last,))  # the limit begins with the first one

        def limit_memory(*_: Any) -> None:
            if next(passes, False):
                _limit_to(_in_use() + free)

        base.get_input_embeddings().register_forward_pre_hook(limit_memory)
        kto.train(
            *(base, tokenizer, rows),
            weights=Weights(1, 1),
            settings=settings,
            output_dir=folder / "out",
            resume=False,
            progress=steps,
        )
        return steps.of("loss")

    limited = train(True)
    _limit_to(resource.getrlimit(resource.RLIMIT_AS)[1])
    whole = train(False)
    if whole:
        (folder / "losses.json").write_text(json.dumps([limited, whole]))


def _in_use() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _limit_to(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))
