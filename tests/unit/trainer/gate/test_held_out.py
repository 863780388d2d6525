"""Held-out rows on a tiny real model against a plain forward pass, and the measures against oracles."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel

from storage.examples.example import Example
from storage.examples.weights import Weights
from tests.support.adapters import adapted
from trainer.dataset.tokenise import TokenisedExample, encode
from trainer.engine.prefix.objective import LossType, losses, reference_point
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.select import Engine, scoring
from trainer.gate.held_out import HeldOut, reference_scores
from trainer.gate.measures import Evaluation
from trainer.taste.auc import auc, auc_standard_error, without_length

EQUAL = Weights(1.0, 1.0)


def example(number: int, label: bool, *, chat: str | None = None, reply: str | None = None) -> Example:
    return Example(
        prompt=[{"role": "user", "content": f"Tell me the number after {number}."}],
        completion=[{"role": "assistant", "content": reply or f"It is {number + 1}, my friend {number}."}],
        label=label,
        message_id=f"m{number}",
        chat_id=chat or f"c{number}",
        source="import",
    )


EXAMPLES = [example(number, number % 2 == 0) for number in range(9)]


@pytest.fixture
def policy(base: Any) -> PeftModel:
    return adapted(base, seed=4)  # with which z0 is above 0, and so depends on what it is made of


def plain_log_probability(model: Any, prompt: list[int], completion: list[int], max_length: int) -> float:
    """The textbook way: all logits in double precision, one position at a time."""
    ids = (prompt + completion)[:max_length]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logits[place - 1, ids[place]]) for place in range(len(prompt), len(ids)))


def held_out(rows: list[TokenisedExample], **changes: Any) -> HeldOut:
    settings: dict[str, Any] = {"loss_type": "kto", "max_length": 512, "batch_size": 4}
    return HeldOut(rows, **settings | changes)


def evaluate(
    model: PeftModel,
    rows: list[TokenisedExample],
    *,
    engine: Engine = "shared-prefix",
    weights: Weights = EQUAL,
    references: ReferenceCache | None = None,
    **changes: Any,
) -> Evaluation:
    judged_by = held_out(rows, **changes)
    with scoring(engine, model) as scorer:
        reference = judged_by.score(reference_scores(scorer, references))
        return judged_by.evaluate(judged_by.score(scorer.policy), reference, weights=weights, beta=0.1)


# AUC


def test_auc_by_hand() -> None:
    # Pairs (up, down): 3>1, 3>2, 2>1, 2=2 -> 3.5 of 4.
    assert auc([3, 1, 2, 2], [True, False, True, False]) == 3.5 / 4
    assert auc([0, 0, 0], [True, False, False]) == 0.5
    assert auc([1, 2], [True, True]) is None
    assert math.isnan(auc([1, math.nan], [True, False]) or 0)


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=30))
def test_auc_is_the_share_of_ordered_pairs(rows: list[tuple[int, bool]]) -> None:
    ups = [reward for reward, up in rows if up]
    downs = [reward for reward, up in rows if not up]
    found = auc([reward for reward, _ in rows], [up for _, up in rows])
    if not ups or not downs:
        assert found is None
        return
    wins = sum((up > down) + (up == down) / 2 for up in ups for down in downs)
    assert found == pytest.approx(wins / (len(ups) * len(downs)))


def test_rewards_that_only_follow_the_length_rank_nothing_without_it() -> None:
    lengths, labels = [10, 20, 30, 40], [True, True, False, False]
    follows = [-2.0 * length for length in lengths]
    assert auc(follows, labels) == 1.0
    assert auc(without_length(follows, lengths), labels) == 0.5
    knows = [value + 5 * label for value, label in zip(follows, labels, strict=True)]
    assert auc(without_length(knows, lengths), labels) == pytest.approx(0.75)
    assert auc(without_length([1.0, 2.0, 3.0, 4.0], [7, 7, 7, 7]), labels) == 0.0
    assert all(map(math.isnan, without_length([math.nan, 1.0], [1, 2])))


def test_standard_error_of_many_small_chats() -> None:
    torch.manual_seed(0)
    rewards = torch.randn(200).tolist()
    labels = [number % 10 == 0 for number in range(200)]
    found = auc_standard_error(rewards, labels, [str(number) for number in range(200)])
    # Hanley and McNeil's formula for AUC 0.5 with 20 and 180 rows gives 0.068.
    assert found == pytest.approx(0.068, abs=0.015)
    assert found == auc_standard_error(rewards, labels, [str(number) for number in range(200)])


def test_rows_of_one_chat_are_one_piece_of_evidence() -> None:
    rewards, labels = [2.0, 1.0, 0.5, 1.5], [True, False, False, True]
    apart = auc_standard_error(rewards * 10, labels * 10, [str(number) for number in range(40)])
    together = auc_standard_error(
        [-r if n < 20 else r for n, r in enumerate(rewards * 10)], labels * 10, ["a"] * 20 + ["b"] * 20
    )
    assert apart is not None
    assert together is not None
    assert together > apart
    assert auc_standard_error(rewards, labels, ["a"] * 4) is None


# On a model


@pytest.fixture
def rows(tokenizer: Any) -> list[TokenisedExample]:
    return [TokenisedExample(one, *encode(tokenizer, one)) for one in EXAMPLES]


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("max_length", [512, 45])
@pytest.mark.parametrize("engine", ["shared-prefix", "trl"])
def test_every_figure_against_a_plain_forward_pass(
    policy: PeftModel, rows: list[TokenisedExample], loss_type: LossType, max_length: int, engine: Engine
) -> None:
    own = [1.0, 0.5, 2.0, 0.25]
    rows = [
        TokenisedExample(row.example, row.prompt_ids, row.completion_ids, weight)
        for row, weight in zip(rows[:4], own, strict=True)
    ]
    changes: dict[str, Any] = {"loss_type": loss_type, "max_length": max_length}
    found = evaluate(policy, rows, engine=engine, weights=Weights(0.8, 1.3), **changes)
    if max_length == 45:
        assert any(row.length > 45 for row in rows)

    def ratio(prompt: list[int], completion: list[int]) -> float:
        mine = plain_log_probability(policy, prompt, completion, max_length)
        with policy.disable_adapter():
            return mine - plain_log_probability(policy, prompt, completion, max_length)

    rewards = [ratio(row.prompt_ids, row.completion_ids) for row in rows]
    assert max(map(abs, rewards)) > 0.1
    assert found.rewards == pytest.approx(rewards, abs=2e-4)
    assert found.margin == pytest.approx((rewards[0] + rewards[2] - rewards[1] - rewards[3]) / 2, abs=2e-4)
    liked = [
        plain_log_probability(policy, row.prompt_ids, row.completion_ids, max_length)
        for row in (rows[0], rows[2])
    ]
    assert found.desirable_log_probability == pytest.approx(sum(liked) / 2, abs=1e-3)

    (ring,) = held_out(rows).blocks
    kl = [ratio(rows[row].prompt_ids, rows[ring[seat - 1]].completion_ids) for seat, row in enumerate(ring)]
    z0 = reference_point(torch.tensor(kl if loss_type == "kto" else []))
    expected = losses(
        torch.tensor(rewards),
        torch.tensor([True, False, True, False]),
        torch.tensor([0.8, 1.3, 0.8, 1.3]) * torch.tensor(own),  # as training weighs them
        z0=z0,
        beta=0.1,
        loss_type=loss_type,
    )
    assert found.z0 == pytest.approx(z0.item(), abs=2e-4)
    assert found.loss == pytest.approx(expected.mean().item(), abs=2e-5)


def test_the_reference_is_its_own_reference(policy: PeftModel, rows: list[TokenisedExample]) -> None:
    judged_by = held_out(rows)
    with scoring("shared-prefix", policy) as scorer:
        reference = judged_by.score(scorer.reference)
    found = judged_by.evaluate(reference, reference, weights=EQUAL, beta=0.1)
    assert found.rewards == [0.0] * 9
    assert (found.loss, found.auc, found.margin, found.z0) == (0.5, 0.5, 0.0, 0.0)
    assert (found.n_desirable, found.n_undesirable, found.votes) == (5, 4, 9)


def test_references_that_are_known_are_not_computed(
    policy: PeftModel, rows: list[TokenisedExample], tmp_path: Path
) -> None:
    passes: list[bool] = []
    layer = policy.base_model.model.model.layers[0].self_attn.q_proj
    hook = policy.base_model.model.model.register_forward_pre_hook(
        lambda *_: passes.append(layer.disable_adapters)
    )
    plain = evaluate(policy, rows)
    for earlier in (0, 18):
        passes.clear()
        cache = ReferenceCache(tmp_path / "references.db", model="tiny", max_mb=1)
        assert evaluate(policy, rows, references=cache) == plain
        assert (sum(passes), len(passes) - sum(passes)) == (18 - earlier, 18), "nine rows and their partners"
    hook.remove()


@pytest.mark.parametrize("count", [2, 3, 5, 9, 13])
@pytest.mark.parametrize("batch_size", [2, 4])
def test_each_row_counts_once_and_has_a_partner(tokenizer: Any, count: int, batch_size: int) -> None:
    examples = [example(number, number % 2 == 0) for number in range(count)]
    rows = [TokenisedExample(one, *encode(tokenizer, one)) for one in examples]
    blocks = held_out(rows, batch_size=batch_size).blocks
    assert sorted(row for block in blocks for row in block) == list(range(count))
    assert min(map(len, blocks)) > 1


def test_the_kl_partners_are_other_chats(policy: PeftModel, rows: list[TokenisedExample]) -> None:
    # Were a row its own partner, z0 would be the mean of the rewards.
    for count in (2, 5, 9):
        found = evaluate(policy, rows[:count])
        assert found.z0 != pytest.approx(max(0.0, sum(found.rewards) / count), abs=1e-6)


def test_a_single_row_has_no_kl_term(policy: PeftModel, rows: list[TokenisedExample]) -> None:
    found = evaluate(policy, rows[:1])
    assert found.z0 == 0
    assert (found.auc, found.auc_standard_error, found.margin) == (None, None, None)


def test_progress_and_json(policy: PeftModel, rows: list[TokenisedExample]) -> None:
    seen: list[int] = []
    judged_by = held_out(rows[:3], batch_size=2)
    with scoring("shared-prefix", policy) as scorer:
        scores = judged_by.score(scorer.policy, seen.append)
    assert seen == [3]
    found = judged_by.evaluate(scores, scores, weights=EQUAL, beta=0.1)
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["n_desirable"] == 2
    assert "rewards" not in values


def test_a_broken_model_is_seen(policy: PeftModel, rows: list[TokenisedExample]) -> None:
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.fill_(math.nan)
    found = evaluate(policy, rows)
    assert math.isnan(found.loss)
    assert not found.is_finite
    assert found.to_dict()["loss"] is None
    json.dumps(found.to_dict(), allow_nan=False)
