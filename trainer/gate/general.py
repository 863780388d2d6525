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
from trainer.taste.sampler import BASE, ReplySampler, Version

TEXTS = Path(__file__).with_name("general_texts.txt")
MAX_TOKENS = 256  # of a text


@cache
def general_texts() -> tuple[str, ...]:
    return tuple(TEXTS.read_text().strip().split("\n\n"))


@torch.no_grad()
def read_general(sampler: ReplySampler, *versions: Version) -> list[General]:
    """How each of these versions reads the general texts. The base model, which all need, reads them once."""
    own: list[list[float]] = [[] for _ in versions]
    moved: list[list[float]] = [[] for _ in versions]
    for ids in _token_ids(sampler):
        usual = _log_probabilities(sampler, ids, BASE)
        for number, version in enumerate(versions):
            found = usual if version[0] is None else _log_probabilities(sampler, ids, version)
            own[number].append(float(found.gather(-1, ids[0, 1:, None]).mean()))
            moved[number].append(float((found.exp() * (found - usual)).sum(-1).mean()))
    return [General(np.array(one), np.array(kl)) for one, kl in zip(own, moved, strict=True)]


def _token_ids(sampler: ReplySampler) -> Iterator[torch.Tensor]:
    """Of each text, [1, tokens]; a text of one token predicts nothing."""
    for text in general_texts():
        ids = sampler.tokenizer(text, return_tensors="pt", truncation=True, max_length=MAX_TOKENS).input_ids
        if ids.shape[1] > 1:
            yield ids.to(sampler.base.device)


def _log_probabilities(sampler: ReplySampler, ids: torch.Tensor, version: Version) -> torch.Tensor:
    """log π of each next token, [tokens − 1, vocabulary], in fp32."""
    with sampler.version(*version):
        logits = sampler.model(input_ids=ids, use_cache=False).logits
    return torch.log_softmax(logits[0, :-1].float(), -1)
