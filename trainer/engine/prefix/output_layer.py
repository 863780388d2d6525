"""Log-probabilities of chosen tokens from hidden states, without materialising the logits.

Positions pass through the output layer in tiles of the vocabulary that fit in the CPU cache. The gradient of
a hidden state is one vector times a number. If only hidden states need a gradient, the forward pass computes
that vector with the scores. If the output layer is trained too, the backward pass computes the scores again.
Softmax and sums are in fp32.
"""

from dataclasses import dataclass
from typing import Any

import torch

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

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    tile: tuple[int, int] = TILE

    def scores(self, hidden: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Scores of the entries from `first` to `last` in fp32, before scale and cap.

        A bf16 product is rounded to 8 bits: a score of 15 is off by up to 0.03, and a reply of hundreds of
        tokens by a good part of a nat. So the product is computed a second time and the rounded one
        subtracted before rounding; the difference is what the rounding lost.
        """
        weight = self.weight[first:last].t()
        product = hidden @ weight
        if product.dtype == torch.float32:
            found = product
        else:
            found = product.float().add_(torch.addmm(product, hidden, weight, beta=-1))
        if self.bias is not None:
            found += self.bias[first:last].float()
        return found

    @property
    def trained(self) -> bool:
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)

    def finish(self, scores: torch.Tensor) -> torch.Tensor:
        """Apply scale and cap, in place."""
        if self.scale != 1.0:
            scores.mul_(self.scale)
        if self.cap is not None:
            scores.div_(self.cap).tanh_().mul_(self.cap)
        return scores

    def slope(self, finished: torch.Tensor) -> torch.Tensor | float:
        """Derivative of `finish` at the point where it returned `finished`."""
        if self.cap is None:
            return self.scale
        return (1 - (finished / self.cap) ** 2) * self.scale


def completion_logps(hidden: torch.Tensor, targets: torch.Tensor, output: OutputLayer) -> torch.Tensor:
    """log π of each target in fp32, shape (positions,).

    Gradients flow to `hidden`, and to the output layer if it is trained. `hidden` has shape (positions,
    hidden) in any number format; it is cast to that of the weight. `targets` has shape (positions,).
    """
    with torch.autocast(hidden.device.type, enabled=False):
        logps: torch.Tensor
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
    def forward(ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, output: OutputLayer) -> torch.Tensor:
        ctx.format = hidden.dtype
        hidden = hidden.to(output.weight.dtype)
        if not ctx.needs_input_grad[0]:
            chosen, normaliser = _chosen(hidden, targets, output)
            return chosen - normaliser
        others = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        chosen, normaliser = _chosen(hidden, targets, output, others)
        logps = chosen - normaliser
        # Kept separate from the other terms: if p(t) is nearly 1, 1 − p(t) would be lost in rounding.
        left = torch.expm1(logps).neg_().mul_(output.slope(chosen))
        ctx.save_for_backward(others.neg_().addcmul_(output.weight[targets].float(), left[:, None]))
        return logps

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (direction,) = ctx.saved_tensors
        return (direction * gradients[0][:, None]).to(ctx.format), None, None


class _TrainedOutput(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        output: OutputLayer,
        _weight: torch.Tensor,
        _bias: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.format = hidden.dtype
        hidden = hidden.to(output.weight.dtype)
        chosen, normaliser = _chosen(hidden, targets, output)
        ctx.save_for_backward(hidden, targets, normaliser)
        ctx.output = output
        return chosen - normaliser

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        hidden, targets, normaliser = ctx.saved_tensors
        output: OutputLayer = ctx.output
        wanted_gradient = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        of_weight = torch.zeros_like(output.weight) if ctx.needs_input_grad[3] else None
        of_bias = (
            torch.zeros_like(output.bias) if output.bias is not None and ctx.needs_input_grad[4] else None
        )
        positions, entries = CUDA_TILE if hidden.is_cuda else output.tile
        vocabulary = len(output.weight)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), positions):
                here = slice(start, start + positions)
                part, wanted, by = hidden[here], targets[here], gradient[here, None]
                rows = torch.arange(len(wanted), device=hidden.device)
                for first in range(0, vocabulary, entries):
                    last = min(first + entries, vocabulary)
                    weight = output.weight[first:last]
                    scores = (part @ weight.t()).float()
                    if output.bias is not None:
                        scores += output.bias[first:last].float()
                    scores = output.finish(scores)
                    slope = output.slope(scores)
                    change, of_tile = _softmax(scores)
                    change.mul_((of_tile - normaliser[here]).exp_().neg_()[:, None])
                    inside = (wanted >= first) & (wanted < last)
                    change[rows[inside], wanted[inside] - first] += 1
                    if isinstance(slope, torch.Tensor) or slope != 1.0:
                        change.mul_(slope)
                    change = change.mul_(by).to(weight.dtype)
                    wanted_gradient[here] += change @ weight
                    if of_weight is not None:
                        of_weight[first:last].addmm_(change.t(), part)
                    if of_bias is not None:
                        of_bias[first:last] += change.sum(0)
        return wanted_gradient.to(ctx.format), None, None, of_weight, of_bias


def _chosen(
    hidden: torch.Tensor, targets: torch.Tensor, output: OutputLayer, others: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The targets' scores, and the log-sum-exp of all scores at each position.

    `others`, zeros of shape (positions, hidden) in fp32, becomes Σ p(i)·slope(i)·W(i) over all entries but
    the target.
    """
    chosen = torch.empty(len(targets), device=hidden.device)
    normaliser = torch.empty_like(chosen)
    positions, entries = CUDA_TILE if hidden.is_cuda else output.tile
    vocabulary = len(output.weight)
    for start in range(0, len(targets), positions):
        here = slice(start, start + positions)
        part, wanted = hidden[here], targets[here]
        total = torch.full((len(wanted),), -torch.inf, device=hidden.device)
        for first in range(0, vocabulary, entries):
            last = min(first + entries, vocabulary)
            scores = output.finish(output.scores(part, first, last))
            inside = (wanted >= first) & (wanted < last)
            column = (wanted - first).clamp(0, last - first - 1)[:, None]
            chosen[here] = torch.where(inside, scores.gather(1, column)[:, 0], chosen[here])
            shares, of_tile = _softmax(scores)
            before, total = total, torch.logaddexp(total, of_tile)
            if others is not None:
                shares.scatter_(1, column, shares.gather(1, column).masked_fill_(inside[:, None], 0))
                slope = output.slope(scores)
                if isinstance(slope, torch.Tensor) or slope != 1.0:
                    shares.mul_(slope)
                product = shares.to(part.dtype) @ output.weight[first:last]
                others[here].mul_((before - total).exp_()[:, None]).addcmul_(
                    product.float(), (of_tile - total).exp_()[:, None]
                )
        normaliser[here] = total
    return chosen, normaliser


def _softmax(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax over a tile's entries, and the log-sum-exp of its scores.

    The log-sum-exp is the largest score minus the log of its share. PyTorch's fused softmax takes half the
    time of its exp, and a quarter of its logsumexp.
    """
    shares = scores.softmax(1)
    return shares, scores.amax(1) - shares.amax(1).log_()
