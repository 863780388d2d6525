"""KTO's loss as pure functions of log-ratios.

A log-ratio is log π − log π_ref, summed over the tokens of a reply, in nats. Sources: the KTO paper (arXiv
2402.01306, equations 7 and 8) and the unpaired form of APO-zero (arXiv 2408.06266).
"""

from typing import Literal

import torch
from torch import Tensor

LossType = Literal["kto", "apo_zero_unpaired"]


def reference_point(mismatched: Tensor) -> Tensor:
    """z0: the mean log-ratio of mismatched pairs, at least 0; a scalar without gradient.

    `mismatched` has shape (pairs,). z0 is 0 without pairs. NaN is passed on.
    """
    if not len(mismatched):
        return mismatched.new_zeros(())
    return mismatched.detach().mean().clamp(min=0)


def losses(
    log_ratios: Tensor, desirable: Tensor, weights: Tensor, *, z0: Tensor, beta: float, loss_type: LossType
) -> Tensor:
    """The loss of each row. All tensors have shape (rows,), except the scalar `z0`.

    A desirable row costs w·(1 − σ(β(r − z0))), an undesirable one w·(1 − σ(β(z0 − r))). `apo_zero_unpaired`
    ignores z0. Finite for any finite r.
    """
    point = z0 if loss_type == "kto" else torch.zeros_like(z0)
    distance = torch.where(desirable, log_ratios - point, point - log_ratios)
    return weights * torch.sigmoid(-beta * distance)


def liked_nll(log_probabilities: Tensor, lengths: Tensor, desirable: Tensor, weights: Tensor) -> Tensor:
    """w·(−log π / tokens) of each desirable row, 0 of the others; shape (rows,), as all arguments.

    KTO's loss is content when all replies become less probable and the disliked ones fall faster. This term
    keeps the liked ones probable, as RPO does for DPO (arXiv 2404.19733, equation 3).
    """
    return torch.where(desirable, -weights * log_probabilities / lengths.clamp(min=1), 0.0)
