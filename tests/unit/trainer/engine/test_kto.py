"""Training: TRL's own losses on our ids and order, exact resumption, and a stop when numbers break."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

from storage.settings import Settings
from tests.support import trainings
from tests.support.examples import example
from tests.support.trainings import (
    WEIGHTS,
    Steps,
    assert_same_steps,
    in_order,
    sums,
    tiny_settings,
    train_with_stock_trl,
    trained_weights,
)
from trainer.dataset.tokenise import TokenisedExample, tokenise
from trainer.engine import kto
from trainer.engine.prefix.objective import LossType
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.select import Engine
from trainer.engine.trl_trainer import ExactTrainer, newest_checkpoint
from trainer.errors import Diverged, Interrupted
from trainer.model.base_model import BaseModelSource, load_model, load_tokenizer, resolve


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> Settings:
    return tiny_settings(tmp_path, tiny_model)


@pytest.fixture
def source(settings: Settings) -> BaseModelSource:
    return resolve(settings)


@pytest.fixture
def rows(source: BaseModelSource) -> list[TokenisedExample]:
    return sums(load_tokenizer(source))


Trainer = Callable[..., tuple[Any, kto.TrainingResult]]


@pytest.fixture
def train(settings: Settings, source: BaseModelSource, rows: list[TokenisedExample]) -> Trainer:
    def train(**changes: Any) -> tuple[Any, kto.TrainingResult]:
        use = {"rows": rows, "settings": settings} | changes
        return trainings.train(*load_model(source), **use)

    return train


def test_losses_are_those_of_trl_on_the_same_rows_in_the_same_order(
    train: Trainer, settings: Settings, source: BaseModelSource, rows: list[TokenisedExample], tmp_path: Path
) -> None:
    seen = Steps()
    ours, _ = train(progress=seen)
    model, tokenizer = load_model(source)
    args = kto.training_arguments(model, WEIGHTS, settings, tmp_path / "stock", checkpointing=False)
    theirs, stock = train_with_stock_trl(
        model, tokenizer, in_order(rows, settings), args, peft_config=kto.lora_config(settings)
    )
    assert seen.of("loss") == pytest.approx([step["loss"] for step in theirs], abs=1e-6)
    torch.testing.assert_close(trained_weights(ours), trained_weights(stock), rtol=0, atol=1e-4)


def test_a_row_weight_multiplies_the_loss_of_that_row_alone(
    source: BaseModelSource, settings: Settings, rows: list[TokenisedExample], tmp_path: Path
) -> None:
    given = [dataclasses.replace(row, weight=number + 0.5) for number, row in enumerate(rows[:4])]
    assert {row.label for row in given} == {True, False}

    def loss(rows: list[TokenisedExample]) -> float:
        model, tokenizer = load_model(source)
        trainer: Any = ExactTrainer(
            model,
            tokenizer,
            rows,
            max_length=settings.max_length,
            args=kto.training_arguments(model, WEIGHTS, settings, tmp_path / "weighted", checkpointing=False),
            peft_config=kto.lora_config(settings),
        )
        block = trainer.data_collator([{"row": number} for number in range(len(rows))])
        return float(trainer.compute_loss(trainer.model, block).detach())

    # Untrained, policy and reference are one: every row costs half of its class's weight, times its own.
    expected = [WEIGHTS.of(row.label) * row.weight / 2 for row in given]
    assert loss(given) == pytest.approx(sum(expected) / len(expected))
    plain = [dataclasses.replace(row, weight=1.0) for row in given]
    assert loss(plain) == pytest.approx(sum(WEIGHTS.of(row.label) for row in plain) / 8)
    ups = [row for row in given if row.label][:2]  # a block of one kind has no rows of the other
    assert loss(ups) == pytest.approx(sum(WEIGHTS.desirable * row.weight / 4 for row in ups))


def test_a_terminated_training_continues_exactly(train: Trainer, settings: Settings, tmp_path: Path) -> None:
    several = settings.model_copy(update={"epochs": 3.0, "checkpoint_steps": 100})
    whole, result = train(settings=several, output_dir=tmp_path / "whole")

    def stop_at(step: int) -> tuple[Callable[[dict[str, Any]], None], Callable[[], None]]:
        reached: list[int] = []

        def check() -> None:
            if reached and reached[-1] >= step:
                raise Interrupted("terminated")

        return lambda state: reached.append(state["step"]), check

    for step in (1, 4):  # in the first epoch, and in the second
        progress, check = stop_at(step)
        with pytest.raises(Interrupted):
            train(settings=several, resume=True, progress=progress, check=check)
        newest = newest_checkpoint(tmp_path / "checkpoints")
        assert newest is not None
        assert newest.name == f"checkpoint-{step + 1}", "the step that was under way ends"
    resumed, second = train(settings=several, resume=True)
    assert (second.resumed_from_step, second.steps) == (5, result.steps) == (5, 9)
    assert second.mean_loss == pytest.approx(result.mean_loss)
    assert second.noise_floor == result.noise_floor is not None, "it was measured in the first process"
    torch.testing.assert_close(trained_weights(resumed), trained_weights(whole), rtol=1e-5, atol=1e-7)


def test_nothing_is_trained_after_the_last_step_of_half_an_epoch(train: Trainer, settings: Settings) -> None:
    half = settings.model_copy(update={"epochs": 1.5})
    seen = Steps()
    whole, first = train(settings=half)
    again, second = train(settings=half, resume=True, progress=seen)
    assert first.steps == second.steps == second.resumed_from_step == 5
    assert second.mean_loss == first.mean_loss
    assert not seen
    torch.testing.assert_close(trained_weights(again), trained_weights(whole), rtol=0, atol=0)


@pytest.mark.parametrize("engine", get_args(Engine))
def test_a_cancelled_training_ends_with_its_step_and_keeps_nothing(
    train: Trainer, settings: Settings, tmp_path: Path, engine: Engine
) -> None:
    steps: list[int] = []

    def check() -> None:
        raise Interrupted("cancelled")

    with pytest.raises(Interrupted):
        train(
            settings=settings.model_copy(update={"engine": engine}),
            progress=lambda state: steps.append(state["step"]),
            check=check,
        )
    assert steps == [0, 1]
    assert newest_checkpoint(tmp_path / "checkpoints") is None


def test_a_half_written_checkpoint_is_passed_over(train: Trainer, settings: Settings, tmp_path: Path) -> None:
    train(settings=settings.model_copy(update={"checkpoint_steps": 1}))
    folder = tmp_path / "checkpoints"
    (folder / "checkpoint-3" / "trainer_state.json").write_text('{"global_step": 3')
    newest = newest_checkpoint(folder)
    assert newest is not None
    assert newest.name == "checkpoint-2"
    _, result = train(resume=True)
    assert (result.resumed_from_step, result.steps) == (2, 3)


def test_without_resume_old_checkpoints_are_forgotten(train: Trainer) -> None:
    train()
    _, result = train()
    assert result.resumed_from_step == 0


def test_weights_that_explode_stop_the_training(train: Trainer, settings: Settings) -> None:
    with pytest.raises(Diverged, match="THUMBLOOP_LEARNING_RATE"):
        train(settings=settings.model_copy(update={"learning_rate": 1e30, "epochs": 5.0}))


def test_exact_ids_are_trained_on_and_cut_at_the_end(
    train: Trainer, settings: Settings, rows: list[TokenisedExample]
) -> None:
    """A reply without an end token must not be trained as if it had one."""
    cut = [dataclasses.replace(row, completion_ids=[i for i in row.completion_ids if i != 2]) for row in rows]
    whole, shorter = Steps(), Steps()
    train(rows=rows, progress=whole)
    train(rows=cut, progress=shorter)
    assert whole.of("loss")[1:] != shorter.of("loss")[1:]
    short = settings.model_copy(update={"max_length": max(len(row.prompt_ids) for row in rows) + 2})
    train(settings=short)


def test_a_saved_adapter_names_the_base_and_is_the_same_every_time(train: Trainer, tmp_path: Path) -> None:
    for name in ("one", "two"):
        model, _ = train()
        kto.save_adapter(model, tmp_path / name, base_model="the-base")
    one, two = tmp_path / "one", tmp_path / "two"
    assert (one / "adapter_config.json").read_bytes() == (two / "adapter_config.json").read_bytes()
    assert '"base_model_name_or_path": "the-base"' in (one / "adapter_config.json").read_text()
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(tensor.abs().sum() > 0 for name, tensor in first.items() if "lora_B" in name)


def test_bf16_trains_fp32_adapters_that_learn(settings: Settings) -> None:
    source = resolve(settings.model_copy(update={"precision": "bf16"}))
    model, tokenizer = load_model(source)
    weights = trained_weights(trainings.train(model, tokenizer, sums(tokenizer), settings)[0])
    assert {p.dtype for p in weights.values()} == {torch.float32}
    assert all(p.abs().sum() > 0 for name, p in weights.items() if "lora_B" in name)


def test_twenty_steps_are_those_of_trl_with_turns_siblings_and_kept_references(
    train: Trainer, settings: Settings, source: BaseModelSource, tmp_path: Path
) -> None:
    _, tokenizer = load_model(source)
    examples = []
    for chat in range(5):
        turns = [
            {
                "role": "user",
                "content": f"What is {chat} plus {chat}, and why would anybody want to know that?",
            },
            {"role": "assistant", "content": f"It is {2 * chat}."},
            {"role": "user", "content": "Are you sure?"},
        ]
        for number, (prompt, reply) in enumerate(
            [(turns[:1], "It is 7."), (turns[:1], turns[1]["content"]), (turns, "Yes, of course I am.")]
        ):
            examples.append(
                example(
                    prompt=prompt,
                    completion=[{"role": "assistant", "content": reply}],
                    label=number > 0,
                    chat_id=str(chat),
                )
            )
    rows = tokenise(tokenizer, examples, max_length=256)[0]
    # Long enough for 20 steps, short enough to cut some replies, which must be cut for partners too.
    longest = max(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    several = settings.model_copy(update={"epochs": 5.0, "max_length": longest - 3, "learning_rate": 2e-3})
    seen = {"trl": Steps(), "cold": Steps(), "warm": Steps()}
    adapters = {}
    for name, steps in seen.items():
        model, result = train(
            rows=rows,
            settings=several.model_copy(update={"engine": "trl" if name == "trl" else "shared-prefix"}),
            references=ReferenceCache(tmp_path / "references.db", model="tiny", max_mb=1),
            output_dir=tmp_path / name,
            progress=steps,
        )
        assert result.references_reused == {"trl": None, "cold": 0, "warm": len(rows)}[name], "once a row"
        adapters[name] = trained_weights(model)
    assert len(seen["trl"]) == 20
    for name in ("cold", "warm"):
        assert_same_steps(seen[name], seen["trl"])
        torch.testing.assert_close(adapters[name], adapters["trl"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("loss_type", get_args(LossType))
def test_accumulated_micro_batches_are_those_of_trl(
    train: Trainer, settings: Settings, tmp_path: Path, loss_type: LossType
) -> None:
    found = {"trl": Steps(), "shared-prefix": Steps()}
    for engine, steps in found.items():
        changes = {"engine": engine, "gradient_accumulation": 2, "batch_size": 3, "epochs": 2.0}
        changes["loss_type"] = loss_type
        train(settings=settings.model_copy(update=changes), output_dir=tmp_path / engine, progress=steps)
    for name in ("loss", "gradient_norm", "kl"):
        expected = pytest.approx(found["trl"].of(name), rel=1e-4, abs=1e-4)
        assert found["shared-prefix"].of(name) == expected


def test_each_rows_own_weight_reaches_the_loss(train: Trainer, rows: list[TokenisedExample]) -> None:
    losses = []
    for weight in (1.0, 2.0):
        train(rows=[dataclasses.replace(row, weight=weight) for row in rows], progress=(seen := Steps()))
        losses.append(seen.of("loss"))
    assert losses[1][0] == pytest.approx(2 * losses[0][0])


def test_loss_and_z0_of_bf16_are_those_of_fp32_within_the_tolerance(settings: Settings) -> None:
    """docs/benchmarks.md states the tolerance for the default model; this one is smaller, and so is its."""
    chosen = settings.model_copy(update={"epochs": 3.0, "learning_rate": 5e-5})
    steps = {"fp32": Steps(), "bf16": Steps()}
    for precision, found in steps.items():
        model, tokenizer = load_model(resolve(chosen.model_copy(update={"precision": precision})))
        rows = sums(tokenizer, 12, "It is {0}. " * 10)
        _, result = trainings.train(model, tokenizer, rows, chosen, progress=found)
        assert result.noise_floor == 0, "policy and reference run the same passes"
    assert len(steps["fp32"]) == 9
    assert steps["bf16"].of("loss") == pytest.approx(steps["fp32"].of("loss"), rel=0.002)
    assert steps["bf16"].of("kl") == pytest.approx(steps["fp32"].of("kl"), abs=0.025)
