"""Selects the engine for a model: `shared-prefix`, or stock `trl` if `shared-prefix` would not be exact."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers.utils import logging as transformers_logging
from trl.trainer.utils import selective_log_softmax

from storage.settings import Settings
from trainer.dataset.batch import Batch, Ids, Item
from trainer.engine.estimates import is_out_of_memory
from trainer.engine.fast.layers import fast_layers
from trainer.engine.prefix.scorer import PrefixScorer, Scores, keep_states_exact
from trainer.model.fsdp import sharded_by

log = logging.getLogger(__name__)

Engine = Literal["shared-prefix", "trl"]

# Largest allowed difference between the probe's log-probabilities and the model's own, in nats per token.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}


def settle_engine(settings: Settings, model: Any) -> Settings:
    """The settings with the engine that will be used; logs why if it is not the one wanted."""
    reason = None if settings.engine == "trl" else why_not_exact(model)
    if reason is None:
        return settings
    log.warning("Training with stock TRL instead of the engine shared-prefix: %s.", reason)
    return settings.model_copy(update={"engine": "trl"})


def why_not_exact(model: Any) -> str | None:
    """Why the engine `shared-prefix` would not be exact on this base model, or None if it is."""
    if way := sharded_by():
        return (
            f"with {way} all processes run the same layers at the same time, but which layers this engine "
            f"runs depends on the rows of each process"
        )
    config = model.config.get_text_config()
    # The same condition as TRL's, which ignores whether the configuration requests router logits.
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
    """The rotary position types in a configuration, whether given once or per kind of layer."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(one for one in rope.values() if isinstance(one, dict))]
    return {str(one.get("rope_type", one.get("type"))) for one in kinds}


@torch.no_grad()
def _gap(model: Any) -> float:
    """Largest mean difference per token between shared-prefix scores and the model's own."""
    vocabulary = min(model.config.get_text_config().vocab_size, 1000)
    ids = torch.randint(vocabulary, (72,), generator=torch.Generator().manual_seed(0)).tolist()
    prompt, one, other, third = ids[:50], ids[50:56], ids[56:64], ids[64:]
    # A sibling reply, which branches, and a later turn, which extends the first row.
    batch = [Item(prompt, one, third), Item(prompt, other, one), Item(prompt + one, third, None)]
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        found, expected = PrefixScorer(model).policy(batch), PlainScorer(model).policy(batch)
    finally:
        transformers_logging.set_verbosity(level)
    lengths = torch.tensor([[len(reply or [0]) for reply in replies] for _, *replies in batch])
    off = torch.stack(
        [found.completions - expected.completions, found.mismatched - expected.mismatched], dim=1
    )
    return float((off.abs().cpu() / lengths).max())


class PlainScorer:
    """log π from the model alone, one reply per pass, for models that PrefixScorer cannot score."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.no_grad()
    def policy(self, batch: Batch) -> Scores:
        self.model.eval()
        rows = [[self._logp(prompt, reply) for reply in replies] for prompt, *replies in batch]
        return Scores(*torch.tensor(rows, device=self.model.device).unbind(1))

    def reference(self, batch: Batch) -> Scores:
        with self.model.disable_adapter():
            return self.policy(batch)

    def _logp(self, prompt: Ids, reply: Ids | None) -> float:
        if reply is None:
            return 0.0
        inputs = torch.tensor([prompt + reply], device=self.model.device)
        targets = inputs[0, len(prompt) :]
        logits = self.model(input_ids=inputs[:, :-1], logits_to_keep=len(targets), use_cache=False).logits[0]
        return float(selective_log_softmax(logits.float(), targets).sum())


@contextmanager
def scoring(engine: Engine, model: PeftModel) -> Iterator[PrefixScorer | PlainScorer]:
    """A scorer of adapters on a base model that computes as a training with this engine does."""
    if engine == "trl":
        yield PlainScorer(model)
        return
    keep_states_exact(model)
    with fast_layers(model):
        yield PrefixScorer(model)
