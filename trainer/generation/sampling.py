"""Chooses the next token from logits: temperature, nucleus and a seeded draw, for one reply or a batch."""

from collections.abc import Sequence
from random import Random

import torch

# The nucleus is nearly always among this many; sorting all of the vocabulary costs milliseconds a token.
CANDIDATES = (64, 2048)
COLDEST = 1e-4  # below this, sampling is greedy to the last bit of float32


class Sampler:
    """The random draws of one reply: each token takes one number from the reply's own generator.

    So a token depends on the seed, its position and its logits alone, not on the rest of the batch.
    """

    def __init__(self, temperature: float, top_p: float, seed: int | None = None) -> None:
        self.temperature, self.top_p = temperature, top_p
        # Wrapped to 64 bits, because `Random` takes the absolute value of a negative seed.
        self._random = Random(None if seed is None else seed % 2**64)

    @property
    def greedy(self) -> bool:
        return self.temperature < COLDEST

    def draw(self) -> float:
        """The next random number in [0, 1)."""
        return self._random.random()


def choose_tokens(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """One token id per row, by temperature and nucleus (Holtzman et al. 2020, arXiv 1904.09751).

    `logits` is (rows, vocabulary), with one sampler per row. Raises FloatingPointError if not finite.
    """
    peaks, best = logits.float().max(dim=-1, keepdim=True)
    if not bool(torch.isfinite(peaks).all()):
        raise FloatingPointError("the model computed logits that are not finite")
    tokens = [int(token) for token in best[:, 0].tolist()]
    rows = [row for row, sampler in enumerate(samplers) if not sampler.greedy]
    if rows:
        temperatures = torch.tensor([[samplers[row].temperature] for row in rows], device=logits.device)
        scaled = logits[rows].float()  # a copy, so it may be changed in place
        probabilities = torch.softmax(scaled.sub_(peaks[rows]).div_(temperatures), dim=-1).cpu()
        sums, ids = _most_likely(probabilities, CANDIDATES[0])
        for at, row in enumerate(rows):
            tokens[row] = _pick(probabilities[at], sums[at], ids[at], samplers[row])
    return tokens


def _most_likely(probabilities: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Running sums of the `count` largest probabilities of each row, and their ids."""
    best, ids = probabilities.topk(min(count, probabilities.shape[-1]))
    return best.double().cumsum(-1), ids


def _pick(probabilities: torch.Tensor, sums: torch.Tensor, ids: torch.Tensor, sampler: Sampler) -> int:
    if sampler.top_p == 1:  # nothing is cut off, so the order does not matter
        sums = probabilities.double().cumsum(0)
        return _at(sums, float(sums[-1]), sampler)
    for count in (*CANDIDATES[1:], len(probabilities)):
        if float(sums[-1]) >= sampler.top_p:
            break
        sums, ids = _most_likely(probabilities, count)
    last = min(int(torch.searchsorted(sums, sampler.top_p)), len(sums) - 1)
    return int(ids[_at(sums[: last + 1], float(sums[last]), sampler)])


def _at(sums: torch.Tensor, total: float, sampler: Sampler) -> int:
    """Index at which a random share of the total falls among the running sums."""
    return min(int(torch.searchsorted(sums, sampler.draw() * total, right=True)), len(sums) - 1)
