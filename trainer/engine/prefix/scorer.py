"""Scores replies and their mismatched partners with a model, computing every shared prefix once.

A row's [prompt, reply] runs once, with gradient, and leaves its keys and values. The mismatched reply
continues from the prompt's part of them, without gradient. Rated turns on one path of a chat share the pass
of the longest; sibling replies branch off, with gradient. Knows no objective and no trainer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import Cache
from transformers.cache_utils import DynamicLayer
from trl.trainer.utils import use_adapter

from trainer.dataset.batch import Batch
from trainer.engine.fast.parallel import ParallelGraphs
from trainer.engine.prefix.output_layer import OutputLayer, completion_logps
from trainer.engine.prefix.passes import Pass, SharedPasses, share_prefixes

# A separate pass has one square block of attention; a branch has a longer context and smaller products. So a
# few shared tokens, for example a system prompt, are cheaper to compute again.
WORTH_SHARING = 48
# The frozen copy of the initial adapter, if training did not begin with the base model.
REFERENCE = "ref"


@dataclass(frozen=True)
class Scores:
    """log π in fp32, each of shape (rows,), 0 if not scored. `mismatched` has no gradient."""

    completions: Tensor
    mismatched: Tensor


class PrefixScorer:
    """Scores replies with a model; the reference of a PEFT model is its base or its adapter `ref`.

    Products are in the format `compute`, by default that of the model; those of the output layer are in the
    format of its weights. With `recompute` no activations are kept: the backward pass computes each chat
    again. `at_once` is the largest number of replies in one pass. On a CPU the chats of a micro-batch run in
    parallel when an adapter is trained.
    """

    def __init__(
        self,
        model: Any,
        *,
        recompute: bool = False,
        at_once: int | None = None,
        compute: torch.dtype | None = None,
    ) -> None:
        self.model = model
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        self.backbone: Any = base.base_model
        self.output = output_layer(base)
        self.recompute, self.at_once = recompute, at_once
        # Not in full fine-tuning, where each chat's gradients are as large as the model.
        parallel = isinstance(model, PeftModel) and model.device.type == "cpu"
        self.parallel = ParallelGraphs(torch.get_num_threads()) if parallel else None
        self.compute = compute or self.output.weight.dtype
        self._largest = 1

    def halve(self) -> str | None:
        """Reduce memory use without changing the numbers; returns what changed, or None if nothing can."""
        if not self.recompute:
            self.recompute = True
            return "the backward pass computes each chat again from now on"
        if self.parallel is not None and self.parallel.threads > 1:
            self.parallel.threads = 1
            return "one chat is computed after the other from now on"
        most = min(self._largest, self.at_once or self._largest)
        if most <= 1:
            return None
        self.at_once = most // 2
        return f"at most {self.at_once} replies share a pass from now on"

    def policy(self, batch: Batch) -> Scores:
        """Scores of the policy, with gradient for the trained weights if gradients are enabled."""
        return self._score(batch)

    @torch.no_grad()
    def reference(self, batch: Batch) -> Scores:
        """Scores of the adapter `ref` or else the base model, in the same passes and so the same shapes."""
        with use_adapter(self.model, REFERENCE if REFERENCE in self.model.peft_config else None):
            return self._score(batch)

    def _score(self, batch: Batch) -> Scores:
        # Trainer switches the model to training mode, where attention and routers apply dropout even without
        # a dropout module. Scores of policy and reference must not be random.
        self.model.eval()
        completions: dict[int, Tensor] = {}
        mismatched: dict[int, Tensor] = {}
        trees = self._trees(batch)
        runs = [_Tree(self, [batch[number] for number in tree]) for tree in trees]
        for tree, run, logps in zip(trees, runs, self._run_all(runs), strict=True):
            completions |= zip(tree, logps.unbind(), strict=True)
            mismatched |= zip(tree, run.mismatched, strict=True)
        numbers = range(len(batch))
        return Scores(
            torch.stack([completions[number] for number in numbers]),
            torch.stack([mismatched[number] for number in numbers]),
        )

    def _run_all(self, runs: "Sequence[_Tree]") -> list[Tensor]:
        pieces = [partial(self._run_one, run) for run in runs]
        if self.parallel is None:
            return [piece() for piece in pieces]
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return self.parallel.run(pieces, [run.cost for run in runs], trained)

    def _run_one(self, run: "_Tree") -> Tensor:
        with self._format():
            if self.recompute and torch.is_grad_enabled():
                found: Tensor = checkpoint(run, use_reentrant=False, preserve_rng_state=False)
                return found
            return run()

    def later(self, task: Callable[[], None]) -> None:
        """Run a task that no pass waits for, in another thread if there is one."""

        def run() -> None:
            with self._format():
                task()

        run() if self.parallel is None else self.parallel.later(run)

    def _format(self) -> torch.autocast:
        reduced = self.compute != torch.float32
        # With threads, autocast caches no casts: a cast of one thread must not enter another's graph.
        return torch.autocast(
            self.model.device.type,
            self.compute if reduced else None,
            enabled=reduced,
            cache_enabled=self.parallel is None,
        )

    def _trees(self, batch: Batch) -> list[list[int]]:
        """Row numbers grouped by the root of their passes, at most `at_once` in a group."""
        shared = share_prefixes(_inputs(batch), worth_sharing=WORTH_SHARING)
        trees: dict[int, list[int]] = {}
        for number, root in enumerate(shared.of_sequence):
            while (parent := shared.passes[root].parent) is not None:
                root = parent
            trees.setdefault(root, []).append(number)
        self._largest = max(map(len, trees.values()))
        size = self.at_once or self._largest
        return [tree[start : start + size] for tree in trees.values() for start in range(0, len(tree), size)]


class _Tree:
    """Rows of a micro-batch that share prefixes; run once, and again if activations are recomputed."""

    def __init__(self, scorer: PrefixScorer, batch: Batch) -> None:
        self.scorer, self.batch = scorer, batch
        self.shared = share_prefixes(_inputs(batch), worth_sharing=WORTH_SHARING)
        self.mismatched: list[Tensor] = []  # complete only when the scorer's run is over

    @property
    def cost(self) -> int:
        """Tokens that go through the model."""
        return sum(len(one.ids) for one in self.shared.passes)

    def __call__(self) -> Tensor:
        caches: list[Cache] = []
        hidden: list[Tensor] = []
        for one in self.shared.passes:
            before = [] if one.parent is None else _kept(caches[one.parent], one.start)
            states, cache = self._run(one, before)
            hidden.append(states)
            caches.append(cache)
        if not self.mismatched:
            self.mismatched = [hidden[0].new_zeros((), dtype=torch.float32)] * len(self.batch)
            for number, (prompt, _, mismatched) in enumerate(self.batch):
                if mismatched is not None:
                    self.scorer.later(
                        partial(self._score_mismatched, number, len(prompt), mismatched, hidden, caches)
                    )
        return torch.stack(
            [
                hidden[0].new_zeros((), dtype=torch.float32)
                if completion is None
                else self._logp(_states(self.shared, hidden, last, len(prompt), len(completion)), completion)
                for (prompt, completion, _), last in zip(self.batch, self.shared.of_sequence, strict=True)
            ]
        )

    def _run(self, one: Pass, before: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Cache]:
        device = self.scorer.model.device
        cache = _cache(before)
        states = self.scorer.backbone(
            input_ids=torch.tensor([one.ids], device=device),
            position_ids=torch.arange(one.start, one.end, device=device)[None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[0]
        return states, cache

    @torch.no_grad()
    def _score_mismatched(
        self, number: int, length: int, reply: list[int], hidden: list[Tensor], caches: list[Cache]
    ) -> None:
        """Score a mismatched reply after a prompt of `length` tokens."""
        last = self.shared.of_sequence[number]
        ((owner, place),) = self.shared.spans(last, length - 1, length)
        states = hidden[owner][place]
        if len(reply) > 1:
            before = [(keys.detach(), values.detach()) for keys, values in _kept(caches[last], length)]
            after, _ = self._run(Pass(length, reply[:-1]), before)
            states = torch.cat([states, after])
        self.mismatched[number] = self._logp(states, reply)

    def _logp(self, states: Tensor, ids: list[int]) -> Tensor:
        targets = torch.tensor(ids, device=states.device)
        return completion_logps(states, targets, self.scorer.output).sum()


def output_layer(base: Any) -> OutputLayer:
    """The output layer of a causal LM, with its model's scale and cap for the scores."""
    head, config = base.get_output_embeddings(), base.config.get_text_config()
    scale = getattr(config, "logit_scale", None)
    if scale is None and getattr(config, "logits_scaling", None) is not None:
        scale = 1 / config.logits_scaling
    return OutputLayer(
        head.weight,
        head.bias,
        scale=1.0 if scale is None else scale,
        cap=getattr(config, "final_logit_softcapping", None),
    )


def _inputs(batch: Batch) -> list[list[int]]:
    """The ids the model reads to score each reply: the last token is only predicted."""
    return [prompt if reply is None else [*prompt, *reply[:-1]] for prompt, reply, _ in batch]


def _states(shared: SharedPasses, hidden: list[Tensor], last: int, prompt: int, completion: int) -> Tensor:
    """The hidden states that predict a completion, given the lengths of its prompt and of itself."""
    spans = shared.spans(last, prompt - 1, prompt - 1 + completion)
    parts = [hidden[owner][place] for owner, place in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def keep_states_exact(model: Any) -> None:
    """Keep the residual stream and the norms in fp32 when the products are in bf16.

    Otherwise each layer rounds the sum to 8 bits, and that alone changes a reply's reward by tenths of a nat.
    """
    if model.dtype == torch.float32:
        return
    for module in model.modules():
        if not isinstance(module, torch.nn.Linear):
            for parameter in module.parameters(recurse=False):
                if parameter.ndim == 1:
                    parameter.data = parameter.data.float()
    model.get_input_embeddings().register_forward_hook(lambda _module, _inputs, found: found.float())


class _Layer(DynamicLayer):
    """Keys and values of a layer, each in its own format: rotated keys may be in fp32 and values in bf16."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)  # type: ignore[no-untyped-call]
        self.values = value_states.new_empty(0)


def _cache(before: list[tuple[Tensor, Tensor]]) -> Cache:
    """A cache that keeps every position, also in sliding layers, whose masks apply the window."""
    cache = Cache(layer_class_to_replicate=_Layer)
    for keys, values in before:
        layer: Any = _Layer()  # type: ignore[no-untyped-call]
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def _kept(cache: Any, positions: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the first positions of each layer."""
    return [(layer.keys[:, :, :positions], layer.values[:, :, :positions]) for layer in cache.layers]
