"""A training that is told to stop leaves the step that it is in."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from storage.examples.weights import Weights
from storage.settings import Settings
from tests.support.examples import example
from trainer.dataset.tokenise import tokenise
from trainer.engine import kto
from trainer.engine.cancellation import interruptible
from trainer.engine.select import Engine
from trainer.errors import Interrupted
from trainer.model.base_model import load_model, resolve


@pytest.mark.parametrize("engine", get_args(Engine))
def test_a_cancellation_is_seen_within_the_backward_pass(
    tmp_path: Path, tiny_model: Path, engine: Engine
) -> None:
    backward: list[str] = []
    steps: list[float] = []

    def note(_module: Any, _inputs: Any, states: torch.Tensor) -> None:
        """The last norm's gradient is there before that of any layer."""
        if states.requires_grad:
            states.register_hook(lambda _gradient: backward.append("begun"))

    def check() -> None:
        if backward:
            raise Interrupted("cancelled")

    settings = Settings(
        data_dir=tmp_path, model=str(tiny_model), precision="fp32", lora_rank=4, engine=engine
    )
    model, tokenizer = load_model(resolve(settings))
    examples = [example(f"What is {n}?", f"It is {n}.", label=n % 2 == 0, chat_id=str(n)) for n in range(4)]
    model.model.norm.register_forward_hook(note)
    with pytest.raises(Interrupted):
        kto.train(
            *(model, tokenizer, tokenise(tokenizer, examples, max_length=256)[0]),
            weights=Weights(1.0, 1.0),
            settings=settings,
            output_dir=tmp_path / "checkpoints",
            resume=False,
            progress=lambda state: steps.append(state["loss"]) if "loss" in state else None,
            check=check,
        )
    assert not steps, "the micro-batch was left, not finished"


def test_it_is_asked_before_each_layer_and_only_while_it_lasts(tmp_path: Path, tiny_model: Path) -> None:
    model, _ = load_model(resolve(Settings(data_dir=tmp_path, model=str(tiny_model), precision="fp32")))
    asked: list[bool] = []
    with torch.no_grad():
        with interruptible(model, lambda: asked.append(True)):
            model(input_ids=torch.tensor([[5, 6]]))
        assert len(asked) == 1 + model.config.num_hidden_layers, "the embeddings and each layer"
        model(input_ids=torch.tensor([[5, 6]]))
    assert len(asked) == 1 + model.config.num_hidden_layers
