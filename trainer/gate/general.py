"""What an adapter makes of general texts: their log-probability, and how far it is from the base model.

The texts come with Thumbloop and are of no vote. A version that forgets how to write anything but what was
rated shows it here, whatever its replies to people's prompts look like.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch

from trainer.gate.comparison import General
from trainer.taste.sampler import ReplySampler

TEXTS = Path(__file__).with_name("general_texts.txt")
MAX_TOKENS = 256  # of a text


@cache
def general_texts() -> tuple[str, ...]:
    return tuple(TEXTS.read_text().strip().split("\n\n"))


@torch.no_grad()
def read_general(sampler: ReplySampler, name: str | None, *, strength: float = 1.0) -> General:
    """How the base model, or an adapter at a strength, reads the general texts."""
    own, moved = [], []
    for ids in _token_ids(sampler):
        usual = _log_probabilities(sampler, ids, None)
        found = _log_probabilities(sampler, ids, name, strength) if name else usual
        own.append(float(found.gather(-1, ids[0, 1:, None]).mean()))
        moved.append(float((found.exp() * (found - usual)).sum(-1).mean()))
    return General(np.array(own), np.array(moved))


def _token_ids(sampler: ReplySampler) -> Iterator[torch.Tensor]:
    """Of each text, [1, tokens]; a text of one token predicts nothing."""
    for text in general_texts():
        ids = sampler.tokenizer(text, return_tensors="pt", truncation=True, max_length=MAX_TOKENS).input_ids
        if ids.shape[1] > 1:
            yield ids.to(sampler.base.device)


def _log_probabilities(
    sampler: ReplySampler, ids: torch.Tensor, name: str | None, strength: float = 1.0
) -> torch.Tensor:
    """log π of each next token, [tokens − 1, vocabulary], in fp32."""
    with sampler.version(name, strength):
        logits = sampler.model(input_ids=ids, use_cache=False).logits
    return torch.log_softmax(logits[0, :-1].float(), -1)
