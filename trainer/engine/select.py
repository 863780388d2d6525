"""Which engine trains a model: `shared-prefix`, or stock `trl` where the first cannot be exact.

Knows neither rows nor the database.
"""

from typing import Any, Literal

import torch
from transformers.utils import logging as transformers_logging

from trainer.engine.memory_estimate import is_out_of_memory
from trainer.engine.prefix.scorer import PrefixScorer, Reply
from trainer.model.fsdp import sharded_by

Engine = Literal["shared-prefix", "trl"]

# How far log-probabilities of the probe may be from the model's own, in nats a token.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}


def choose_engine(wanted: Engine, model: Any) -> tuple[Engine, str]:
    """The engine to use for a base model, and a sentence why it is not the one that was wanted, or ''."""
    if wanted == "trl":
        return wanted, ""
    reason = _why_not(model)
    if reason is None:
        return wanted, ""
    return "trl", f"Training with stock TRL instead of the engine shared-prefix: {reason}."


def _why_not(model: Any) -> str | None:
    if way := sharded_by():
        return (
            f"with {way} all processes run the same layers at the same time, and which ones that engine runs "
            f"depends on the rows of each"
        )
    config = model.config.get_text_config()
    # As TRL decides it, whatever the configuration says of asking for the routers' scores.
    if hasattr(config, "output_router_logits") and getattr(config, "router_aux_loss_coef", 0.0) != 0.0:
        return "the model's experts have a loss of their own"
    if growing := _rope_types(config) & {"dynamic", "longrope"}:
        return f"the model's {min(growing)} positions depend on the length of the whole sequence"
    try:
        gap = _gap(model)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"the model does not continue from a cache ({type(error).__name__}: {error})"
    if not gap <= TOLERANCE.get(model.dtype, 0.2):
        return f"continued from a cache, the model's log-probabilities are off by {gap:.3g} nats a token"
    return None


def _rope_types(config: Any) -> set[str]:
    """The kinds of rotary positions that a configuration names, for all layers or for each kind of them."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(one for one in rope.values() if isinstance(one, dict))]
    return {str(one.get("rope_type", one.get("type"))) for one in kinds}


@torch.no_grad()
def _gap(model: Any) -> float:
    """Largest mean difference a token between replies scored with shared prefixes and by the model alone."""
    vocabulary = min(model.config.get_text_config().vocab_size, 1000)
    ids = torch.randint(vocabulary, (72,), generator=torch.Generator().manual_seed(0)).tolist()
    prompt, one, other, third = ids[:50], ids[50:56], ids[56:64], ids[64:]
    # A sibling and a later turn, so that one branches and one rides along.
    replies = [
        Reply(prompt, one, mismatched=third),
        Reply(prompt, other, mismatched=one),
        Reply(prompt + one, third),
    ]
    scores = PrefixScorer(model).policy(replies)
    gaps = []
    for reply, own, mismatched in zip(replies, scores.completions, scores.mismatched, strict=True):
        for completion, found in ((reply.completion, own), (reply.mismatched, mismatched)):
            if completion:
                expected = _plain_logp(model, reply.prompt, completion)
                gaps.append(abs(float(found) - expected) / len(completion))
    return max(gaps)


def _plain_logp(model: Any, prompt: list[int], completion: list[int]) -> float:
    inputs = torch.tensor([prompt + completion], device=model.device)
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        logits = model(input_ids=inputs, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    finally:
        transformers_logging.set_verbosity(level)
    return float(logits.log_softmax(-1).gather(1, inputs[0, len(prompt) :, None]).sum())
