"""Measure a model on held-out examples: the KTO loss, AUC, margin and log-probabilities.

The same examples always get the same KL partners and one z0, so two models can be compared row by
row. Knows no database, and does not judge: that is the gate's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

from storage.errors import InvalidInput
from storage.examples.example import Example
from trainer.dataset import batch_order
from trainer.dataset.tokenise import TokenisedExample, tokenise
from trainer.dataset.weights import Weights
from trainer.engine.prefix.objective import LossType, losses, reference_point
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.prefix.scorer import Reply, Scores

RESAMPLES = 1000
# Positions whose scores over the vocabulary are held in fp32 at once; small chunks stay in cache.
CHUNK = 128


@dataclass(frozen=True)
class Evaluation:
    """What was measured; r is log π − log π_ref summed over a reply, in nats, without β."""

    loss: float  # mean over the rows of λ·(1 − σ(…))
    auc: float | None  # of r against the label; None without both kinds
    auc_standard_error: float | None  # bootstrap over chats
    margin: float | None  # mean r of liked replies − mean r of disliked ones
    desirable_log_probability: float | None  # mean log π of the liked replies, in nats a reply
    n_desirable: int
    n_undesirable: int
    z0: float
    rewards: list[float] = field(repr=False)  # r of each row, in the order of the examples

    @property
    def votes(self) -> int:
        return self.n_desirable + self.n_undesirable

    def to_dict(self) -> dict[str, Any]:
        """For JSON: without the single rows' rewards, and with None for what is not finite."""
        values = asdict(self)
        del values["rewards"]
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }


@dataclass(frozen=True)
class Objective:
    """KTO's loss of each row, and the z0 that all of them share."""

    losses: list[float]
    z0: float

    @property
    def mean(self) -> float:
        return math.fsum(self.losses) / len(self.losses)


def objective(
    rewards: Sequence[float],
    labels: Sequence[bool],
    kl: Sequence[float],
    *,
    weights: Weights,
    beta: float,
    loss_type: LossType,
) -> Objective:
    """KTO's loss of held-out rows from log-ratios in nats; `kl` are those of mismatched pairs.

    Without them z0 is 0. A NaN anywhere shows in the losses; none is hidden.
    """
    up = torch.tensor(labels, dtype=torch.bool)
    mismatched = torch.tensor(kl if loss_type == "kto" else [], dtype=torch.float64)
    z0 = reference_point(mismatched)
    found = losses(
        torch.tensor(rewards, dtype=torch.float64),
        up,
        torch.tensor([weights.of(label) for label in labels], dtype=torch.float64),
        z0=z0,
        beta=beta,
        loss_type=loss_type,
    )
    return Objective(found.tolist(), z0.item())


def evaluate(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    weights: Weights,
    beta: float,
    loss_type: LossType,
    max_length: int,
    batch_size: int,
    references: ReferenceCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score every example that fits in `max_length` tokens; the end of longer replies is cut.

    The policy is `model` as it is; the reference is the same model with its adapter off. A bare base
    model is its own reference, so all its r are 0. KL partners are neighbours in a fixed order, in
    blocks of `batch_size` rows as in training; z0 is one mean over all of them. `references` are reused
    and added to. `progress` gets the rows done and their number. Raises InvalidInput if no example is
    left to score.
    """
    rows, dropped = tokenise(tokenizer, examples, max_length=max_length)
    if not rows:
        why = ", ".join(f"{reason} ({count})" for reason, count in dropped.items()) or "there are none"
        raise InvalidInput(f"None of {len(examples)} held-out examples can be scored: {why}.")
    partners = _partners(rows, batch_size) if loss_type == "kto" and isinstance(model, PeftModel) else {}
    log_probabilities, rewards, kl = [], [], []
    was_training = model.training
    model.eval()
    try:
        for number, row in enumerate(rows):
            room = max_length - len(row.prompt_ids)
            other = rows[partners[number]].completion_ids[:room] if number in partners else None
            reply = Reply(row.prompt_ids, row.completion_ids[:room], other)
            policy = _score(model, [reply])
            reference = _reference(model, [reply], references) if isinstance(model, PeftModel) else policy
            log_probabilities.append(policy.completions.item())
            rewards.append((policy.completions - reference.completions).item())
            if other:
                kl.append((policy.mismatched - reference.mismatched).item())
            if progress is not None:
                progress(number + 1, len(rows))
    finally:
        model.train(was_training)
    labels = [row.label for row in rows]
    found = objective(rewards, labels, kl, weights=weights, beta=beta, loss_type=loss_type)
    liked = [value for value, label in zip(rewards, labels, strict=True) if label]
    disliked = [value for value, label in zip(rewards, labels, strict=True) if not label]
    return Evaluation(
        loss=found.mean,
        auc=auc(rewards, labels),
        auc_standard_error=auc_standard_error(rewards, labels, [row.chat_id for row in rows]),
        margin=_mean(liked) - _mean(disliked) if liked and disliked else None,
        desirable_log_probability=_mean([p for p, up in zip(log_probabilities, labels, strict=True) if up])
        if liked
        else None,
        n_desirable=len(liked),
        n_undesirable=len(disliked),
        z0=found.z0,
        rewards=rewards,
    )


def auc(
    rewards: Sequence[float], labels: Sequence[bool], multiplicity: NDArray[np.int64] | None = None
) -> float | None:
    """Chance that a desirable row's r beats an undesirable one's, ties half; None without both kinds.

    `multiplicity` says how often each row counts. Rewards that are not all finite give NaN.
    """
    up = np.asarray(labels, dtype=bool)
    times = np.ones(len(up)) if multiplicity is None else multiplicity
    _, rank = np.unique(np.asarray(rewards), return_inverse=True)
    ups = np.bincount(rank, weights=times * up)
    downs = np.bincount(rank, weights=times * ~up)
    pairs = ups.sum() * downs.sum()
    if pairs == 0:
        return None
    if not np.isfinite(rewards).all():
        return math.nan
    below = np.cumsum(downs) - downs
    return float((ups * (below + downs / 2)).sum() / pairs)


def auc_standard_error(
    rewards: Sequence[float], labels: Sequence[bool], chats: Sequence[str]
) -> float | None:
    """Standard deviation of the AUC over resampled chats, whose rows stay together; seeded.

    None where there is no AUC or only one chat.
    """
    names, chat = np.unique(np.asarray(chats), return_inverse=True)
    if len(names) < 2 or auc(rewards, labels) is None:
        return None
    draw = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        times = np.bincount(draw.integers(len(names), size=len(names)), minlength=len(names))
        value = auc(rewards, labels, times[chat])
        if value is not None:
            found.append(value)
    return float(np.std(found)) if found else None


def _partners(rows: Sequence[TokenisedExample], batch_size: int) -> dict[int, int]:
    """Each row's neighbour, whose reply is its mismatched one; empty for a single row."""
    # Here no row may count twice, so a block of one is avoided by making all of them one block.
    block_size = batch_size if len(rows) % batch_size != 1 else max(2, len(rows))
    ring = batch_order.order(rows, batch_size=block_size, seed=0)
    blocks = (ring[start : start + block_size] for start in range(0, len(ring), block_size))
    return {row: block[seat - 1] for block in blocks for seat, row in enumerate(block)}


def _reference(model: PeftModel, replies: list[Reply], known: ReferenceCache | None) -> Scores:
    with model.disable_adapter():
        return _score(model, replies) if known is None else known.complete(replies, partial(_score, model))[0]


def _score(model: Any, replies: Sequence[Reply]) -> Scores:
    """log π of what is asked for, each reply in a pass of its own."""

    def score(prompt: list[int], completion: list[int] | None) -> float:
        return _log_probability(model, prompt + completion, len(prompt)) if completion else 0.0

    return Scores(
        torch.tensor([score(one.prompt, one.completion if one.wanted else None) for one in replies]),
        torch.tensor([score(one.prompt, one.mismatched) for one in replies]),
    )


@torch.no_grad()
def _log_probability(model: Any, ids: list[int], prompt_length: int) -> float:
    """Sum of log π over the ids after the prompt, in fp32; only they pass the output layer."""
    inputs = torch.tensor([ids], device=model.device)
    targets = inputs[0, prompt_length:]
    logits = model(input_ids=inputs[:, :-1], logits_to_keep=len(targets), use_cache=False).logits[0]
    total = torch.zeros((), device=model.device)
    for start in range(0, len(targets), CHUNK):
        scores = logits[start : start + CHUNK].float()
        chosen = scores.gather(1, targets[start : start + CHUNK, None])[:, 0]
        total += (chosen - scores.logsumexp(1)).sum()
    return float(total)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
