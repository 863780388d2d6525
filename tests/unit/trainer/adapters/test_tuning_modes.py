"""What is trained: all weights as stock TRL trains them, and refusals where a machine or a run cannot."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from storage.errors import BadSetting
from storage.settings import Settings
from tests.support.trainings import Steps, assert_same_steps, sums, tiny_settings, train, trained_weights
from trainer.adapters.tuning_modes import load_for_training
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.model.base_model import resolve


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> Settings:
    chosen = {"tuning": "full", "learning_rate": 1e-3, "batch_size": 3, "epochs": 2.0, "beta": 0.5}
    return tiny_settings(tmp_path, tiny_model, **chosen)


def train_all(settings: Settings, folder: Path, **more: Any) -> tuple[Steps, dict[str, torch.Tensor]]:
    model, tokenizer = load_for_training(resolve(settings), settings)
    steps = Steps()
    trained, _ = train(
        *(model, tokenizer, sums(tokenizer), settings), output_dir=folder, progress=steps, **more
    )
    return steps, trained_weights(trained)


def test_four_bits_are_not_spread_over_processes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(BadSetting, match="THUMBLOOP_TUNING=qlora: FSDP would leave .* set lora"):
        load_for_training(resolve(settings), settings.model_copy(update={"tuning": "qlora"}))


def test_all_weights_are_trained_as_stock_trl_trains_them(settings: Settings, tmp_path: Path) -> None:
    theirs, expected = train_all(settings.model_copy(update={"engine": "trl"}), tmp_path / "trl")
    references = ReferenceCache(tmp_path / "references.db", model="tiny", max_mb=1)
    for _cold_then_warm in range(2):
        ours, weights = train_all(settings, tmp_path / "ours", references=references)
        assert_same_steps(ours, theirs)
        assert any(mine["kl"] > 0 for mine in ours)
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-4)


def test_a_resumed_training_of_all_weights_has_the_references_of_the_base(
    settings: Settings, tmp_path: Path
) -> None:
    few = settings.model_copy(update={"checkpoint_steps": 5})
    whole, expected = train_all(few, tmp_path / "one")
    assert len(whole) == 8
    shutil.rmtree(tmp_path / "one" / "checkpoint-8")  # as if the training had ended after its fifth step
    rest, weights = train_all(few, tmp_path / "one", resume=True)
    assert rest.of("step") == [6, 7, 8]
    assert rest.of("loss") == pytest.approx(whole.of("loss")[5:], rel=1e-5)
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(torch.cuda.is_available(), reason="refusals of a machine without a GPU")
@pytest.mark.parametrize(("setting", "value"), [("precision", "fp16"), ("tuning", "qlora")])
def test_what_needs_a_gpu_is_refused_without_one(settings: Settings, setting: str, value: str) -> None:
    chosen = settings.model_copy(update={setting: value})
    with pytest.raises(BadSetting, match=f"THUMBLOOP_{setting.upper()}={value}.*CUDA"):
        load_for_training(resolve(chosen), chosen)
