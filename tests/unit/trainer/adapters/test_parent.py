"""Training that continues from an adapter: stock TRL's numbers, exact resumption, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from storage.db.tables import ModelVersion
from storage.errors import ArtifactRefused
from storage.registry.artifacts import Artifacts
from storage.settings import Settings
from tests.support.adapters import seal_and_publish
from tests.support.trainings import (
    WEIGHTS,
    Steps,
    assert_same_steps,
    in_order,
    sums,
    tiny_settings,
    train,
    train_with_stock_trl,
    trained_weights,
)
from trainer.adapters.parent import ParentAdapter, find_parent
from trainer.dataset.tokenise import TokenisedExample
from trainer.engine import kto
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.errors import Interrupted
from trainer.model.base_model import BaseModelSource, load_model, load_tokenizer, resolve


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> Settings:
    return tiny_settings(tmp_path, tiny_model, learning_rate=5e-3, epochs=3, training_mode="continue")


@pytest.fixture
def source(settings: Settings) -> BaseModelSource:
    return resolve(settings)


@pytest.fixture
def rows(source: BaseModelSource) -> list[TokenisedExample]:
    return sums(load_tokenizer(source))


@pytest.fixture
def deployed(
    settings: Settings, source: BaseModelSource, rows: list[TokenisedExample], tmp_path: Path
) -> ModelVersion:
    """A version that was trained and published."""
    model, _ = train(*load_model(source), rows[:6], settings, output_dir=tmp_path / "first")
    artifacts = Artifacts(settings.data_dir)
    kto.save_adapter(model, artifacts.staging("run"), base_model=source.name)
    published = seal_and_publish(artifacts, "run")
    return ModelVersion(
        number=2,
        kind="adapter",
        base_model=source.name,
        path=published.path,
        sha256=published.sha256,
        files=published.files,
    )


@pytest.fixture
def start(deployed: ModelVersion, source: BaseModelSource, settings: Settings) -> ParentAdapter:
    found = find_parent(deployed, source, Artifacts(settings.data_dir), settings)
    assert found is not None
    return found


Continue = Callable[..., tuple[Any, kto.TrainingResult]]


@pytest.fixture
def carry_on(
    start: ParentAdapter, settings: Settings, source: BaseModelSource, rows: list[TokenisedExample]
) -> Continue:
    def carry_on(**changes: Any) -> tuple[Any, kto.TrainingResult]:
        model, tokenizer = load_model(source)
        return train(start.load_into(model), tokenizer, rows, **{"settings": settings} | changes)

    return carry_on


def test_steps_and_weights_are_those_of_stock_trl_given_the_same_peft_model(
    carry_on: Continue,
    start: ParentAdapter,
    settings: Settings,
    source: BaseModelSource,
    rows: list[TokenisedExample],
    tmp_path: Path,
) -> None:
    base, tokenizer = load_model(source)
    whole = settings.model_copy(update={"epochs": 1.0})
    ordered = in_order(rows, settings)
    args = kto.training_arguments(base, WEIGHTS, whole, tmp_path / "stock", checkpointing=False)
    parent = PeftModel.from_pretrained(base, str(start.folder), is_trainable=True)
    steps, stock = train_with_stock_trl(parent, tokenizer, ordered, args)
    theirs = trained_weights(stock)
    begun = load_file(start.folder / "adapter_model.safetensors")
    for name, engine in (("trl", "trl"), ("cold", "shared-prefix"), ("warm", "shared-prefix")):
        seen = Steps()
        model, result = carry_on(
            settings=whole.model_copy(update={"engine": engine}),
            references=ReferenceCache(tmp_path / "references.db", model=f"tiny {start.sha256}", max_mb=1),
            output_dir=tmp_path / name,
            progress=seen,
        )
        assert len(seen) == len(steps) == 3
        assert_same_steps(seen, steps)
        # Policy and reference begin as one, so each row costs half of its weight; not so against the base.
        first = [WEIGHTS.of(row.label) / 2 for row in ordered[:4]]
        assert seen[0]["loss"] == pytest.approx(sum(first) / 4, rel=1e-4)
        torch.testing.assert_close(trained_weights(model), theirs, rtol=0, atol=1e-4)
        for key, tensor in model.named_parameters():
            if ".ref." in key:
                assert not tensor.requires_grad
                assert torch.equal(tensor, begun[key.replace(".ref.", ".")]), "the reference stays as it was"
        assert result.references_reused == {"trl": None, "cold": 0, "warm": len(rows)}[name]


def test_a_killed_training_continues_to_the_same_weights(
    carry_on: Continue, settings: Settings, tmp_path: Path
) -> None:
    whole, result = carry_on(output_dir=tmp_path / "whole")
    reached: list[int] = []

    def check() -> None:
        if reached and reached[-1] >= 4:
            raise Interrupted("lost")

    often = settings.model_copy(update={"checkpoint_steps": 2})
    with pytest.raises(Interrupted):
        carry_on(settings=often, progress=lambda state: reached.append(state["step"]), check=check)
    resumed, second = carry_on(settings=often, resume=True)
    assert (second.resumed_from_step, second.steps) == (4, result.steps)
    torch.testing.assert_close(trained_weights(resumed), trained_weights(whole), rtol=1e-5, atol=1e-7)


def test_in_bf16_the_adapters_stay_exact_and_begin_as_one(
    start: ParentAdapter, settings: Settings, rows: list[TokenisedExample]
) -> None:
    source = resolve(settings.model_copy(update={"precision": "bf16"}))
    model, tokenizer = load_model(source)
    adapted, result = train(start.load_into(model), tokenizer, rows, settings)
    assert result.engine == "shared-prefix"
    assert result.noise_floor == 0
    adapters = {name: p for name, p in adapted.named_parameters() if "lora_" in name}
    assert {p.dtype for p in adapters.values()} == {torch.float32}
    assert all(
        not torch.equal(p, adapters[n.replace(".default.", ".ref.")])
        for n, p in trained_weights(adapted).items()
    )


def test_what_is_saved_is_the_new_adapter_alone(carry_on: Continue, tmp_path: Path) -> None:
    model, _ = carry_on()
    kto.save_adapter(model, tmp_path / "saved", base_model="the-base")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    saved = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    for name, tensor in trained_weights(model).items():
        assert torch.equal(saved[name.replace(".default.", ".")], tensor)


def test_there_is_nothing_to_continue_from_the_base_or_in_fresh_mode(
    deployed: ModelVersion, source: BaseModelSource, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    artifacts = Artifacts(settings.data_dir)
    base = ModelVersion(number=1, kind="base", base_model=source.name)
    assert find_parent(base, source, artifacts, settings) is None
    assert "v1 is deployed, the base model" in caplog.text
    fresh = settings.model_copy(update={"training_mode": "fresh"})
    assert find_parent(deployed, source, artifacts, fresh) is None


def rewrite(artifacts: Artifacts, version: ModelVersion, **changes: Any) -> ModelVersion:
    """The version as if its adapter had been published with another config, or without a tensor."""
    folder = artifacts.folder(version.path or "")
    if "tensor" in changes:
        tensors = load_file(folder / "adapter_model.safetensors")
        save_file(dict(list(tensors.items())[1:]), folder / "adapter_model.safetensors")
    else:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    shutil.copytree(folder, artifacts.staging("run"), dirs_exist_ok=True)
    again = seal_and_publish(artifacts, "run")
    version.files, version.sha256 = again.files, again.sha256
    return version


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base_model_name_or_path": "other"}, "for the base model 'other'"),
        ({"r": 8}, "its rank is 8, not THUMBLOOP_LORA_RANK=4"),
        ({"tensor": None}, "tensors of this base model"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_by_name_with_a_remedy(
    deployed: ModelVersion, source: BaseModelSource, settings: Settings, changes: dict[str, Any], reason: str
) -> None:
    artifacts = Artifacts(settings.data_dir)
    version = rewrite(artifacts, deployed, **changes)

    def begin() -> None:
        start = find_parent(version, source, artifacts, settings)
        assert start is not None
        start.load_into(load_model(source)[0])

    with pytest.raises(ArtifactRefused, match="adapter of v2 .*THUMBLOOP_TRAINING_MODE=fresh") as refused:
        begin()
    assert reason in refused.value.message


def test_an_adapter_for_another_architecture_is_refused(
    start: ParentAdapter, source: BaseModelSource
) -> None:
    for changes in ({"num_hidden_layers": 1}, {"hidden_size": 32}):
        other = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source.folder, **changes))
        with pytest.raises(ArtifactRefused, match="adapter of v2 .*THUMBLOOP_TRAINING_MODE=fresh"):
            start.load_into(other)


def test_an_adapter_with_a_broken_hash_is_refused(
    deployed: ModelVersion, source: BaseModelSource, settings: Settings, start: ParentAdapter
) -> None:
    file = start.folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(ArtifactRefused, match=r"adapter of v2 .*has changed .*THUMBLOOP_TRAINING_MODE=fresh"):
        find_parent(deployed, source, Artifacts(settings.data_dir), settings)
