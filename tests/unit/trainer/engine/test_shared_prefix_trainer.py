"""What a micro-batch's loss depends on, and what it does not: order, partners, size, the kept references."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.examples import example
from tests.support.trainings import WEIGHTS, tiny_settings
from trainer.dataset.tokenise import tokenise
from trainer.engine import kto
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.shared_prefix_trainer import SharedPrefixTrainer
from trainer.model.base_model import load_model, resolve


class Batch:
    """A trainer whose adapter is far from the base, and what it says of one micro-batch."""

    def __init__(
        self, model: str, folder: Path, references: ReferenceCache | None = None, nll_weight: float = 0.0
    ) -> None:
        settings = tiny_settings(folder, model, beta=0.5)
        base, tokenizer = load_model(resolve(settings))
        examples = [
            example(
                f"What is {n} plus {n}?", f"It is {'very ' * n}much, {n}.", label=n % 3 != 0, chat_id=str(n)
            )
            for n in range(4)
        ]
        self.trainer = SharedPrefixTrainer(
            base,
            tokenise(tokenizer, examples, max_length=256)[0],
            max_length=256,
            args=kto.training_arguments(base, WEIGHTS, settings, folder / "checkpoints", False),
            peft_config=kto.lora_config(settings),
            recompute=False,
            references=references,
            nll_weight=nll_weight,
            callbacks=[],
        )
        self.trainer.current_gradient_accumulation_steps = 1  # as a training sets it
        self.model = self.trainer.scorer.model
        torch.manual_seed(202)  # with which z0 is above 0, and so depends on what it is made of
        for name, parameter in self.model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.3)

    def step(self, rows: list[int]) -> dict[str, Any]:
        """Loss, z0, mean reward in nats and the gradient of a micro-batch of these rows."""
        self.model.zero_grad()
        loss = self.trainer.training_step(self.model, {"rows": torch.tensor(rows)})
        logs: dict[str, float] = {}
        self.trainer.log(logs)
        kept = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}
        return {"loss": loss.item(), "z0": logs["kl"], "logs": logs, "gradient": kept}


@pytest.fixture
def batch(tiny_model: Path, tmp_path: Path) -> Batch:
    return Batch(str(tiny_model), tmp_path)


def test_rows_may_change_places_with_their_partners(batch: Batch) -> None:
    first, turned = batch.step([0, 1, 2, 3]), batch.step([2, 3, 0, 1])
    assert turned["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert turned["z0"] == pytest.approx(first["z0"], rel=1e-5) != 0
    torch.testing.assert_close(turned["gradient"], first["gradient"], rtol=1e-4, atol=1e-6)
    mixed = batch.step([1, 0, 2, 3])  # other partners
    assert mixed["z0"] != pytest.approx(first["z0"], rel=1e-3)


def test_only_the_adapter_gets_a_gradient(batch: Batch) -> None:
    assert all("lora_" in name for name in batch.step([0, 1, 2, 3])["gradient"])


def test_z0_depends_on_the_size_of_the_micro_batch(batch: Batch) -> None:
    whole = batch.step([0, 1, 2, 3])["z0"]
    halves = [batch.step(rows)["z0"] for rows in ([0, 1], [2, 3])]
    assert sum(halves) / 2 != pytest.approx(whole, rel=1e-3)


def test_a_row_that_is_its_own_partner_would_be_seen(batch: Batch) -> None:
    """z0 is then the mean of the rewards, and of nothing else."""
    up, other = 1, 2  # both are voted up, so that one mean is that of all rewards
    paired = batch.step([up, up])
    assert paired["z0"] == pytest.approx(max(0.0, paired["logs"]["rewards/chosen"] / 0.5), abs=1e-4)
    apart = batch.step([up, other])
    assert apart["z0"] != pytest.approx(max(0.0, apart["logs"]["rewards/chosen"] / 0.5), abs=1e-3)


def test_kept_references_give_what_computed_ones_give(tiny_model: Path, tmp_path: Path) -> None:
    def step() -> tuple[dict[str, Any], int]:
        references = ReferenceCache(tmp_path / "references.db", model="tiny", max_mb=1)
        batch = Batch(str(tiny_model), tmp_path, references)
        return batch.step([0, 1, 2, 3]), batch.trainer.references_reused

    (live, none), (kept, all_of_them) = step(), step()
    assert (none, all_of_them) == (0, 4)
    assert kept["loss"] == pytest.approx(live["loss"], rel=1e-5)
    torch.testing.assert_close(kept["gradient"], live["gradient"], rtol=1e-5, atol=1e-5)


def test_liked_replies_add_their_likelihood(tiny_model: Path, tmp_path: Path) -> None:
    """The loss is KTO's and α times the mean over the rows of w·(−log π / tokens) of the liked ones."""
    plain, added = (Batch(str(tiny_model), tmp_path, nll_weight=weight) for weight in (0.0, 0.5))
    rows = plain.trainer.rows
    found = plain.trainer.scorer.policy(plain.trainer._batch(rows)).completions.tolist()
    terms = [
        -WEIGHTS.desirable * score / len(row.completion_ids) if row.label else 0.0
        for row, score in zip(rows, found, strict=True)
    ]
    expected = plain.step([0, 1, 2, 3])["loss"] + 0.5 * sum(terms) / 4
    assert added.step([0, 1, 2, 3])["loss"] == pytest.approx(expected, rel=1e-5)
    assert sum(terms) > 1
