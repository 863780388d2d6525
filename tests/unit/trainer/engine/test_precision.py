"""bf16 follows fp32: the same rows in the same order, step by step."""

from pathlib import Path

import pytest

from storage.examples.weights import Weights
from storage.settings import Settings
from tests.support.trainings import Steps, sums
from trainer.engine import kto
from trainer.model.base_model import load_model, resolve


def test_loss_and_z0_of_bf16_are_those_of_fp32_within_the_tolerance(tmp_path: Path, tiny_model: Path) -> None:
    """docs/benchmarks.md states the tolerance for the default model; this one is smaller, and so is its."""
    settings = Settings(data_dir=tmp_path, model=str(tiny_model), lora_rank=4, epochs=3.0)
    steps = {"fp32": Steps(), "bf16": Steps()}
    for precision, found in steps.items():
        model, tokenizer = load_model(resolve(settings.model_copy(update={"precision": precision})))
        _, result = kto.train(
            *(model, tokenizer, sums(tokenizer, 12, "It is {0}. " * 10)),
            weights=Weights(0.8, 1.3),
            settings=settings,
            output_dir=tmp_path / precision,
            resume=False,
            progress=found,
        )
        assert result.noise_floor == 0, "policy and reference run the same passes"
    assert len(steps["fp32"]) == 9
    assert steps["bf16"].of("loss") == pytest.approx(steps["fp32"].of("loss"), rel=0.002)
    assert steps["bf16"].of("kl") == pytest.approx(steps["fp32"].of("kl"), abs=0.025)
