"""Scores held-out rows with a model, in the same micro-batches for every version.

The KL partners of the rows never change, and all rows share one z0, so versions can be compared row by row.
"""

from collections.abc import Callable, Sequence
from itertools import count

import torch

from storage.examples.weights import Weights
from trainer.dataset import batch_order
from trainer.dataset.batch import Batch, make_batch
from trainer.dataset.tokenise import TokenisedExample
from trainer.engine.prefix.objective import LossType, losses, reference_point
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.prefix.scorer import PrefixScorer, Scores
from trainer.engine.select import PlainScorer
from trainer.gate.measures import Evaluation
from trainer.taste.auc import auc, auc_standard_error, without_length


def reference_scores(
    scorer: PrefixScorer | PlainScorer, known: ReferenceCache | None
) -> Callable[[Batch], Scores]:
    """The function that scores the reference, through the cache `known` if the engine can use it.

    Cached values come from the shared-prefix engine, so a PlainScorer does not use them.
    """
    if known is None or isinstance(scorer, PlainScorer):
        return scorer.reference
    cache = known
    return lambda batch: cache.complete(batch, scorer.reference)[0]


class HeldOut:
    """The held-out rows. Mismatched replies come from the same micro-batch, as in training."""

    def __init__(
        self, rows: Sequence[TokenisedExample], *, loss_type: LossType, max_length: int, batch_size: int
    ) -> None:
        self.rows, self.loss_type, self.max_length = rows, loss_type, max_length
        self.paired = loss_type == "kto" and len(rows) > 1
        # No row may count twice here. A micro-batch of one row would need a second copy as its partner, so
        # choose a size that leaves no such remainder.
        size = next((size for size in count(batch_size) if len(rows) % size != 1), 1) if len(rows) > 1 else 1
        self.blocks = batch_order.blocks(rows, batch_size=size, seed=0) if len(rows) > 1 else [[0]]

    @torch.no_grad()
    def score(
        self, score: Callable[[Batch], Scores], progress: Callable[[int], None] = lambda _done: None
    ) -> Scores:
        """log π of each row, in the order of the rows; `progress` receives the number scored so far."""
        found = Scores(torch.zeros(len(self.rows)), torch.zeros(len(self.rows)))
        done = 0
        for block in self.blocks:
            rows = [self.rows[number] for number in block]
            scores = score(make_batch(rows, max_length=self.max_length, mismatched=self.paired))
            found.completions[block] = scores.completions.float().cpu()
            found.mismatched[block] = scores.mismatched.float().cpu()
            done += len(block)
            progress(done)
        return found

    def evaluate(self, policy: Scores, reference: Scores, *, weights: Weights, beta: float) -> Evaluation:
        """The measures of a policy. The KTO loss is as in training, with each row's own weight.

        z0 is the mean over all mismatched replies, or 0 if there are none.
        """
        kl = (policy.mismatched - reference.mismatched).double()
        z0 = reference_point(kl if self.paired else kl[:0])
        labels = [row.label for row in self.rows]
        rewards = (policy.completions - reference.completions).double()
        weight = torch.tensor([row.weight * weights.of(row.label) for row in self.rows], dtype=torch.float64)
        up = torch.tensor(labels)
        found = losses(rewards, up, weight, z0=z0, beta=beta, loss_type=self.loss_type)
        both = up.any() and not up.all()
        lengths = [len(row.completion_ids) for row in self.rows]
        values = rewards.tolist()
        return Evaluation(
            loss=found.mean().item(),
            auc=auc(values, labels),
            auc_standard_error=auc_standard_error(values, labels, [row.chat_id for row in self.rows]),
            margin=(rewards[up].mean() - rewards[~up].mean()).item() if both else None,
            desirable_log_probability=policy.completions[up].double().mean().item() if up.any() else None,
            n_desirable=int(up.sum()),
            n_undesirable=int((~up).sum()),
            z0=z0.item(),
            rewards=values,
            auc_per_token=auc((rewards / torch.tensor(lengths)).tolist(), labels),
            auc_without_length=auc(without_length(values, lengths), labels),
        )
