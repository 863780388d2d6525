"""Gradient checkpointing: where memory demands it, or as it is set; the same numbers either way."""

from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from transformers import Gemma3nTextConfig

from storage.settings import Settings
from tests.support.examples import example
from tests.support.trainings import Steps, sums, tiny_settings, train
from trainer.dataset.tokenise import TokenisedExample
from trainer.engine.estimates import activation_bytes, checkpoints_activations, needed_bytes
from trainer.engine.select import Engine
from trainer.model.base_model import load_model, resolve


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> Settings:
    return tiny_settings(tmp_path, tiny_model)


@pytest.mark.parametrize("engine", get_args(Engine))
def test_the_setting_decides_and_the_result_says_so(settings: Settings, engine: Engine) -> None:
    passes: dict[str, int] = {}
    losses: dict[str, list[float]] = {}
    for choice in ("auto", "on", "off"):
        model, tokenizer = load_model(resolve(settings))
        count: list[int] = []
        steps = Steps()
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        chosen = settings.model_copy(update={"engine": engine, "gradient_checkpointing": choice})
        _, result = train(model, tokenizer, sums(tokenizer, 4), chosen, progress=steps)
        assert result.gradient_checkpointing == (choice == "on")
        passes[choice], losses[choice] = len(count), steps.of("gradient_norm")
    assert passes["auto"] == passes["off"] < passes["on"]
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-5)


@pytest.mark.parametrize("choice", ["on", "off"])
def test_dropout_that_a_configuration_asks_of_attention_is_off(settings: Settings, choice: str) -> None:
    """Computed again with other draws, a gradient would be that of another loss."""

    def steps(dropout: float) -> list[tuple[float, float]]:
        model, tokenizer = load_model(resolve(settings))
        for module in model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = dropout
        seen = Steps()
        chosen = settings.model_copy(update={"gradient_checkpointing": choice})
        train(model, tokenizer, sums(tokenizer, 8), chosen, progress=seen)
        return list(zip(seen.of("loss"), seen.of("gradient_norm"), strict=True))

    assert steps(0.5) == steps(0.0)


@pytest.mark.parametrize("engine", get_args(Engine))
def test_memory_decides_where_nothing_is_set(settings: Settings, engine: Engine) -> None:
    model, _ = load_model(resolve(settings))
    rows = [TokenisedExample(example(), [1] * 10**6, [2])] * 10**5

    def found(length: int, choice: str) -> bool:
        changes = {"batch_size": len(rows), "max_length": length, "gradient_checkpointing": choice}
        return checkpoints_activations(model, rows, settings.model_copy(update=changes), engine)

    assert not found(1, "auto")
    assert found(10**6, "auto"), "10¹¹ tokens are more than any memory holds"
    assert found(1, "on")
    assert not found(10**6, "off")


def test_the_longest_rows_that_could_meet_count_and_stock_trl_pads_them(settings: Settings) -> None:
    model, _ = load_model(resolve(settings))
    rows = [TokenisedExample(example(), [1] * length, [2]) for length in (9, 49, 19, 29, 99)]
    few = settings.model_copy(update={"batch_size": 3, "max_length": 80})
    tokens = {
        engine: needed_bytes(model, rows, few, engine) / activation_bytes(model, engine)
        for engine in get_args(Engine)
    }
    assert tokens == {"shared-prefix": 80 + 50 + 30, "trl": 3 * 80}


def test_feed_forwards_may_differ_from_layer_to_layer() -> None:
    config = Gemma3nTextConfig(num_hidden_layers=2, intermediate_size=[8, 32])
    widest = Gemma3nTextConfig(num_hidden_layers=2, intermediate_size=[32, 32])
    needed, most = (
        activation_bytes(SimpleNamespace(config=one, dtype=torch.float32), "shared-prefix")
        for one in (config, widest)
    )
    assert needed == most
