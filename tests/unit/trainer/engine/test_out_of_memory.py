"""Out of memory: smaller passes and the same numbers, or a failure that says what to do."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model

from storage.settings import Settings
from tests.support import limited_memory, trainings
from tests.support.examples import example
from tests.support.programs import run_together
from tests.support.trainings import Steps, tiny_settings, trained_weights
from trainer.dataset.batch import make_batch
from trainer.dataset.tokenise import TokenisedExample, tokenise
from trainer.engine import kto
from trainer.engine.estimates import activation_bytes
from trainer.engine.fast.layers import fast_layers
from trainer.engine.prefix.scorer import PrefixScorer
from trainer.errors import OutOfMemory
from trainer.model.base_model import load_model, resolve


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> Settings:
    return tiny_settings(tmp_path, tiny_model, gradient_accumulation=2)


def siblings(tokenizer: Any) -> list[TokenisedExample]:
    """Chats of four replies to one long prompt, which share a pass."""
    question = "What is one plus one, and why would anybody want to know that today of all days?"
    examples = [
        example(f"{question} {chat}", f"It is {reply}.", label=reply == 2, chat_id=str(chat))
        for chat in range(4)
        for reply in range(4)
    ]
    return tokenise(tokenizer, examples, max_length=256)[0]


class _Failing:
    """Allocations that fail: in so many backward passes, when they have come to the first layer."""

    def __init__(self, times: int) -> None:
        self.left = times

    def arm(self, _module: Any, _inputs: Any, states: torch.Tensor) -> None:
        if states.requires_grad:
            states.register_hook(self._fail)

    def _fail(self, _gradient: torch.Tensor) -> None:
        if self.left:
            self.left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.fixture
def train(settings: Settings) -> Any:
    def train(
        failing: _Failing | None = None, tuning: str = "lora"
    ) -> tuple[Steps, dict[str, torch.Tensor], bool]:
        model, tokenizer = load_model(resolve(settings))
        if failing is not None:
            model.model.layers[0].register_forward_hook(failing.arm)
        steps = Steps()
        chosen = settings.model_copy(update={"tuning": tuning})
        trained, result = trainings.train(model, tokenizer, siblings(tokenizer), chosen, progress=steps)
        return steps, trained_weights(trained), result.gradient_checkpointing

    return train


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_step_that_runs_out_is_done_again_in_smaller_passes(
    train: Any, times: int, tuning: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With `full` the layers above have added to their gradients already when the first one fails."""
    expected, weights, recomputed = train(tuning=tuning)
    found, after, recomputed_then = train(_Failing(times), tuning=tuning)
    assert (recomputed, recomputed_then) == (False, True)
    assert sum("Out of memory in step" in record.message for record in caplog.records) == times
    for mine, whole in zip(found, expected, strict=True):
        for measure in ("loss", "kl", "gradient_norm", "margin"):
            assert mine[measure] == pytest.approx(whole[measure], rel=1e-4, abs=1e-6), measure
    torch.testing.assert_close(after, weights, rtol=0, atol=2e-5)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_real_limit_on_memory_gives_the_same_losses(
    tiny_model: Path, tmp_path: Path, processes: int
) -> None:
    """16 rows of 500 tokens keep nearly 200 MB for the backward pass, one row a sixteenth; 110 are left.

    Of two processes only the second one has so little; the first waits for it.
    """
    words = [str(tiny_model), str(tmp_path), "110"]
    printed = run_together(
        processes, limited_memory.__name__, *words, environment=os.environ, output=tmp_path / "run"
    )
    assert printed.count("Out of memory in step") == 1, "once, and not where there is no limit"
    limited, whole = json.loads((tmp_path / "losses.json").read_text())
    assert len(whole) == 2
    assert limited == pytest.approx(whole, rel=1e-6)


def test_when_nothing_is_left_to_halve_the_failure_names_what_to_do(train: Any) -> None:
    with pytest.raises(OutOfMemory, match="THUMBLOOP_MAX_LENGTH=1024.*THUMBLOOP_PRECISION=bf16"):
        train(_Failing(1000))


def test_the_estimate_of_what_a_token_keeps_is_near_the_truth(settings: Settings) -> None:
    model, tokenizer = load_model(resolve(settings))
    model = get_peft_model(model, kto.lora_config(settings))
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    row = siblings(tokenizer)[0]
    with fast_layers(model), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = PrefixScorer(model).policy(make_batch([row], max_length=row.length, mismatched=False))
    tokens = len(row.prompt_ids) + len(row.completion_ids)
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / tokens
    assert scores.completions.requires_grad
    assert found < activation_bytes(model, "shared-prefix") < 3 * found


def test_passes_are_halved_down_to_single_replies(settings: Settings) -> None:
    model, tokenizer = load_model(resolve(settings))
    scorer = PrefixScorer(model)
    rows = siblings(tokenizer)[:4]
    batch = make_batch(rows, max_length=max(row.length for row in rows), mismatched=False)
    scores = [scorer.policy(batch).completions.detach()]
    assert scorer.halve() == "the backward pass computes each chat again from now on"
    while scorer.halve() is not None:
        scores.append(scorer.policy(batch).completions.detach())
    assert scorer.at_once == 1
    assert len(scores) == 3, "four, two, one"
    for found in scores[1:]:
        torch.testing.assert_close(found, scores[0], rtol=1e-5, atol=1e-4)
