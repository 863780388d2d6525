"""Log-probabilities of chosen tokens from hidden states, without materialising the logits.

Positions pass through the output layer in tiles of the vocabulary that fit in the CPU cache. The gradient of
a hidden state is one vector times a number. If only hidden states need a gradient, the forward pass computes
that vector with the scores. If the output layer is trained too, the backward pass computes the scores again.
Softmax and sums are in fp32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Positions and vocabulary entries per tile: 128 × 4096 scores in fp32 are 2 MiB.
TILE = (128, 4096)
# GPUs need larger tiles and have the memory for them.
CUDA_TILE = (2048, 32768)


@dataclass(frozen=True)
class OutputLayer:
    """The output layer: `weight` (vocabulary, hidden), `bias` (vocabulary,) or None.

    Parameters that require a gradient get one. Scores are multiplied by `scale` and then softly capped to
    ±`cap`, as in some models. `tile` is the number of positions and entries scored at once on a CPU.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    tile: tuple[int, int] = TILE

    def scores(self, hidden: Tensor, entries: slice) -> Tensor:
        """Scores of these entries of the vocabulary in fp32, with scale and cap.

        A bf16 product is rounded to 8 bits: a score of 15 is off by up to 0.03, and a reply of hundreds of
        tokens by a good part of a nat. So the product is computed a second time and the rounded one
        subtracted before rounding; the difference is what the rounding lost.
        """
        weight = self.weight[entries].t()
        product = hidden @ weight
        if product.dtype == torch.float32:
            found = product
        else:
            found = product.float().add_(torch.addmm(product, hidden, weight, beta=-1))
        if self.bias is not None:
            found += self.bias[entries].float()
        if self.scale != 1.0:
            found.mul_(self.scale)
        if self.cap is not None:
            found.div_(self.cap).tanh_().mul_(self.cap)
        return found

    def times_slope(self, values: Tensor, scores: Tensor) -> Tensor:
        """Multiply by the derivative of scale and cap where they gave these scores, in place."""
        if self.cap is not None:
            values.mul_((1 - (scores / self.cap) ** 2) * self.scale)
        elif self.scale != 1.0:
            values.mul_(self.scale)
        return values

    @property
    def trained(self) -> bool:
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)


def completion_logps(hidden: Tensor, targets: Tensor, output: OutputLayer) -> Tensor:
    """log π of each target in fp32, shape (positions,).

    Gradients flow to `hidden`, and to the output layer if it is trained. `hidden` has shape (positions,
    hidden) in any number format; it is cast to that of the weight. `targets` has shape (positions,).
    """
    with torch.autocast(hidden.device.type, enabled=False):
        logps: Tensor
        if output.trained:
            logps = _TrainedOutput.apply(hidden, targets, output, output.weight, output.bias)  # type: ignore[no-untyped-call]
        else:
            logps = _FrozenOutput.apply(hidden, targets, output)  # type: ignore[no-untyped-call]
    return logps


class _FrozenOutput(torch.autograd.Function):
    """log p of the targets, with a gradient for `hidden` only.

    ∂ log p(t) / ∂ hidden = (1 − p(t))·W(t) − Σ p(i)·W(i) over the other entries i, each term times the slope
    of its score.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, output: OutputLayer) -> Tensor:
        ctx.format = hidden.dtype
        hidden = hidden.to(output.weight.dtype)
        if not ctx.needs_input_grad[0]:
            chosen, normaliser = _chosen(hidden, targets, output)
            return chosen - normaliser
        others = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        chosen, normaliser = _chosen(hidden, targets, output, others)
        logps = chosen - normaliser
        # Kept separate from the other terms: if p(t) is nearly 1, 1 − p(t) would be lost in rounding.
        left = output.times_slope(torch.expm1(logps).neg_(), chosen)
        ctx.save_for_backward(others.neg_().addcmul_(output.weight[targets].float(), left[:, None]))
        return logps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (direction,) = ctx.saved_tensors
        return (direction * gradients[0][:, None]).to(ctx.format), None, None


class _TrainedOutput(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, output: OutputLayer, _weight: Tensor, _bias: Tensor | None
    ) -> Tensor:
        ctx.format = hidden.dtype
        hidden = hidden.to(output.weight.dtype)
        chosen, normaliser = _chosen(hidden, targets, output)
        ctx.save_for_backward(hidden, targets, normaliser)
        ctx.output = output
        return chosen - normaliser

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        hidden, targets, normaliser = ctx.saved_tensors
        output: OutputLayer = ctx.output
        wanted_gradient = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        of_weight = torch.zeros_like(output.weight) if ctx.needs_input_grad[3] else None
        of_bias = (
            torch.zeros_like(output.bias) if output.bias is not None and ctx.needs_input_grad[4] else None
        )
        with torch.autocast(hidden.device.type, enabled=False):
            for here, entries in _tiles(hidden, output):
                part, weight = hidden[here], output.weight[entries]
                scores = output.scores(part, entries)
                change, of_tile = _softmax(scores)
                change.mul_((of_tile - normaliser[here]).exp_().neg_()[:, None])
                column = targets[here] - entries.start
                (inside,) = ((column >= 0) & (column < len(weight))).nonzero(as_tuple=True)
                change[inside, column[inside]] += 1
                change = output.times_slope(change, scores).mul_(gradient[here, None]).to(weight.dtype)
                wanted_gradient[here] += change @ weight
                if of_weight is not None:
                    of_weight[entries].addmm_(change.t(), part)
                if of_bias is not None:
                    of_bias[entries] += change.sum(0)
        return wanted_gradient.to(ctx.format), None, None, of_weight, of_bias


def _chosen(
    hidden: Tensor, targets: Tensor, output: OutputLayer, others: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The targets' scores, and the log-sum-exp of all scores at each position.

    `others`, zeros of shape (positions, hidden) in fp32, becomes Σ p(i)·slope(i)·W(i) over all entries but
    the target.
    """
    chosen = torch.empty(len(targets), device=hidden.device)
    normaliser = torch.full_like(chosen, -torch.inf)
    for here, entries in _tiles(hidden, output):
        part, column = hidden[here], targets[here] - entries.start
        scores = output.scores(part, entries)
        inside = (column >= 0) & (column < scores.shape[1])
        column = column.clamp(0, scores.shape[1] - 1)[:, None]
        chosen[here] = torch.where(inside, scores.gather(1, column)[:, 0], chosen[here])
        shares, of_tile = _softmax(scores)
        before = normaliser[here].clone()
        normaliser[here] = total = torch.logaddexp(before, of_tile)
        if others is not None:
            shares.scatter_(1, column, shares.gather(1, column).masked_fill_(inside[:, None], 0))
            product = output.times_slope(shares, scores).to(part.dtype) @ output.weight[entries]
            others[here].mul_((before - total).exp_()[:, None]).addcmul_(
                product.float(), (of_tile - total).exp_()[:, None]
            )
    return chosen, normaliser


def _tiles(hidden: Tensor, output: OutputLayer) -> Iterator[tuple[slice, slice]]:
    """Slices of positions and of vocabulary entries; the last ones may reach beyond the end."""
    positions, entries = CUDA_TILE if hidden.is_cuda else output.tile
    for start in range(0, len(hidden), positions):
        for first in range(0, len(output.weight), entries):
            yield slice(start, start + positions), slice(first, first + entries)


def _softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over a tile's entries, and the log-sum-exp of its scores.

    The log-sum-exp is the largest score minus the log of its share. PyTorch's fused softmax takes half the
    time of its exp, and a quarter of its logsumexp.
    """
    shares = scores.softmax(1)
    return shares, scores.amax(1) - shares.amax(1).log_()
