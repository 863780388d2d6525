"""The evaluator against hand-computed oracles, and on a tiny real model against a plain forward pass."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from storage.errors import InvalidInput
from storage.examples.example import Example
from trainer.dataset.batch_order import order
from trainer.dataset.tokenise import TokenisedExample, encode
from trainer.dataset.weights import Weights
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.gate.evaluate import LossType, auc, auc_standard_error, evaluate, objective

EQUAL = Weights(1.0, 1.0)
PLAIN: dict[str, Any] = {
    "weights": EQUAL,
    "beta": 0.1,
    "loss_type": "kto",
    "max_length": 512,
    "batch_size": 4,
}


def example(number: int, label: bool, *, chat: str | None = None, reply: str | None = None) -> Example:
    return Example(
        prompt=[{"role": "user", "content": f"Tell me the number after {number}."}],
        completion=[{"role": "assistant", "content": reply or f"It is {number + 1}, my friend {number}."}],
        label=label,
        message_id=f"m{number}",
        chat_id=chat or f"c{number}",
        user_id="u",
        model_version=None,
        voted_at=datetime(2026, 1, 1, tzinfo=UTC),
        tags=[],
        comment=None,
        source="import",
        token_ids=None,
    )


EXAMPLES = [example(number, number % 2 == 0) for number in range(9)]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def base(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


@pytest.fixture
def policy(base: Any) -> PeftModel:
    """The tiny model with an adapter that really changes it."""
    torch.manual_seed(3)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model


def plain_log_probability(model: Any, prompt: list[int], completion: list[int], max_length: int) -> float:
    """The textbook way: all logits in double precision, one position at a time."""
    ids = (prompt + completion)[:max_length]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logits[place - 1, ids[place]]) for place in range(len(prompt), len(ids)))


# The pure objective


def test_oracle_of_two_rows() -> None:
    found = objective([2, -1], [True, False], [0.5, -0.1], weights=EQUAL, beta=0.1, loss_type="kto")
    assert found.z0 == pytest.approx(0.2, abs=1e-15)
    assert found.losses == pytest.approx([0.4551211, 0.4700359], abs=5e-8)
    assert found.mean == pytest.approx(0.4625785, abs=5e-8)


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0.01, 15), st.floats(0.01, 15))
def test_a_policy_equal_to_its_reference(ups: int, downs: int, up: float, down: float) -> None:
    rows = ups + downs
    found = objective(
        [0.0] * rows,
        [True] * ups + [False] * downs,
        [0.0] * rows,
        weights=Weights(up, down),
        beta=0.1,
        loss_type="kto",
    )
    assert found.z0 == 0
    assert found.mean == pytest.approx((up * ups + down * downs) / (2 * rows))


def test_weights_are_linear() -> None:
    def mean(weights: Weights) -> float:
        return objective(
            [1.5, -0.5, 0.3], [True, True, False], [0.2], weights=weights, beta=0.1, loss_type="kto"
        ).mean

    assert mean(Weights(3, 5)) == pytest.approx(3 * mean(Weights(1, 0)) + 5 * mean(Weights(0, 1)))


def test_a_negative_mean_kl_is_exactly_zero() -> None:
    assert objective([0], [True], [-1, 0.5], weights=EQUAL, beta=0.1, loss_type="kto").z0 == 0


def test_without_z0_in_apo_zero() -> None:
    found = objective([2, -1], [True, False], [5, 5], weights=EQUAL, beta=0.1, loss_type="apo_zero_unpaired")
    assert found.z0 == 0
    assert found.losses == pytest.approx([1 - 1 / (1 + math.exp(-0.2)), 1 / (1 + math.exp(0.1))])


@pytest.mark.parametrize("labels", [[True, True], [False, False], [True, False]])
@pytest.mark.parametrize("rewards", [[1e4, -1e4], [-1e4, 1e4], [1e300, -1e300]])
def test_huge_rewards_stay_finite(labels: list[bool], rewards: list[float]) -> None:
    found = objective(rewards, labels, rewards, weights=EQUAL, beta=0.5, loss_type="kto")
    assert all(0 <= loss <= 1 for loss in found.losses)


@pytest.mark.parametrize(("reward", "kl"), [(math.nan, 0.0), (0.0, math.nan)])
def test_nan_is_not_hidden(reward: float, kl: float) -> None:
    found = objective([reward, 1], [True, False], [kl, 0], weights=EQUAL, beta=0.1, loss_type="kto")
    assert math.isnan(found.mean)


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


def test_the_base_is_its_own_reference(base: Any, tokenizer: Any) -> None:
    found = evaluate(base, tokenizer, EXAMPLES, **PLAIN)
    assert found.rewards == [0.0] * 9
    assert (found.loss, found.auc, found.margin, found.z0) == (0.5, 0.5, 0.0, 0.0)
    assert (found.n_desirable, found.n_undesirable, found.votes) == (5, 4, 9)


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("max_length", [512, 45])
def test_every_figure_against_a_plain_forward_pass(
    policy: PeftModel, tokenizer: Any, loss_type: LossType, max_length: int
) -> None:
    settings = PLAIN | {"loss_type": loss_type, "max_length": max_length, "weights": Weights(0.8, 1.3)}
    found = evaluate(policy, tokenizer, EXAMPLES[:4], **settings)
    pairs = [encode(tokenizer, one) for one in EXAMPLES[:4]]
    if max_length == 45:
        assert any(len(prompt) + len(completion) > 45 for prompt, completion in pairs)

    def ratio(prompt: list[int], completion: list[int]) -> float:
        mine = plain_log_probability(policy, prompt, completion, max_length)
        with policy.disable_adapter():
            return mine - plain_log_probability(policy, prompt, completion, max_length)

    rewards = [ratio(*pair) for pair in pairs]
    assert max(map(abs, rewards)) > 0.1
    assert found.rewards == pytest.approx(rewards, abs=1e-4)
    assert found.margin == pytest.approx((rewards[0] + rewards[2] - rewards[1] - rewards[3]) / 2, abs=1e-4)
    liked = [plain_log_probability(policy, *pairs[row], max_length) for row in (0, 2)]
    assert found.desirable_log_probability == pytest.approx(sum(liked) / 2, abs=1e-3)

    rows = [TokenisedExample(one, *pair) for one, pair in zip(EXAMPLES[:4], pairs, strict=True)]
    ring = order(rows, batch_size=4, seed=0)
    kl = [ratio(pairs[row][0], pairs[ring[seat - 1]][1]) for seat, row in enumerate(ring)]
    expected = objective(
        rewards, [True, False, True, False], kl, weights=Weights(0.8, 1.3), beta=0.1, loss_type=loss_type
    )
    assert found.z0 == pytest.approx(expected.z0, abs=1e-4)
    assert found.loss == pytest.approx(expected.mean, abs=1e-5)


def test_references_that_are_known_are_not_computed(
    policy: PeftModel, tokenizer: Any, tmp_path: Path
) -> None:
    passes: list[bool] = []
    hook = policy.get_base_model().register_forward_pre_hook(
        lambda *_: passes.append(policy.base_model.model.model.layers[0].self_attn.q_proj.disable_adapters)
    )
    plain = evaluate(policy, tokenizer, EXAMPLES, **PLAIN)
    for earlier in (0, 18):
        passes.clear()
        cache = ReferenceCache(tmp_path / "references.db", model="tiny", max_mb=1)
        assert evaluate(policy, tokenizer, EXAMPLES, **PLAIN, references=cache) == plain
        assert (sum(passes), len(passes) - sum(passes)) == (18 - earlier, 18), "nine rows and their partners"
    hook.remove()


def test_it_leaves_the_model_as_it_was(policy: PeftModel, tokenizer: Any) -> None:
    policy.train()
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    first = evaluate(policy, tokenizer, EXAMPLES, **PLAIN)
    assert policy.training
    assert all(torch.equal(weight, before[name]) for name, weight in policy.state_dict().items())
    assert evaluate(policy, tokenizer, EXAMPLES, **PLAIN) == first


def test_the_kl_partners_are_other_chats(policy: PeftModel, tokenizer: Any) -> None:
    # Were a row its own partner, z0 would be the mean of the rewards.
    for count in (2, 5, 9):
        found = evaluate(policy, tokenizer, EXAMPLES[:count], **PLAIN)
        assert found.z0 != pytest.approx(max(0.0, sum(found.rewards) / count), abs=1e-6)


def test_a_single_row_has_no_kl_term(policy: PeftModel, tokenizer: Any) -> None:
    found = evaluate(policy, tokenizer, EXAMPLES[:1], **PLAIN)
    assert found.z0 == 0
    assert (found.auc, found.auc_standard_error, found.margin) == (None, None, None)


def test_progress_and_json(policy: PeftModel, tokenizer: Any) -> None:
    seen: list[tuple[int, int]] = []
    found = evaluate(
        policy, tokenizer, EXAMPLES[:3], **PLAIN, progress=lambda done, of: seen.append((done, of))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["n_desirable"] == 2
    assert "rewards" not in values


def test_a_broken_model_is_seen(policy: PeftModel, tokenizer: Any) -> None:
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.fill_(math.nan)
    found = evaluate(policy, tokenizer, EXAMPLES, **PLAIN)
    assert math.isnan(found.loss)
    assert found.to_dict()["loss"] is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_examples_that_do_not_fit_are_left_out(base: Any, tokenizer: Any) -> None:
    long = Example(**{**vars(EXAMPLES[0]), "prompt": [{"role": "user", "content": "word " * 200}]})
    settings = PLAIN | {"max_length": 64}
    assert evaluate(base, tokenizer, [long, *EXAMPLES[1:3]], **settings).votes == 2
    with pytest.raises(InvalidInput, match=r"None of 1 held-out examples can be scored: .*64 tokens"):
        evaluate(base, tokenizer, [long], **settings)
    with pytest.raises(InvalidInput, match="there are none"):
        evaluate(base, tokenizer, [], **settings)
