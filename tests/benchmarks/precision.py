"""How far a training in bf16 is from the same one in fp32: loss, z0 and rewards, step by step.

Three comparisons on the same rows in the same order. "own steps": each trains by itself, so that the
gradients' rounding counts too. "same weights": before each step the adapter is the one of the fp32
training, and what is compared is the rounding of the passes alone. "one step": r of fp32 and of bf16 on
one adapter, reply by reply, after the first step. Stock TRL in bf16 (its autocast on a bf16 base) is the
yardstick. All in one process; in fp32 the engines are equal (tests).
"""

import argparse
import gc
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from storage.examples.weights import class_weights
from storage.settings import Settings
from tests.benchmarks.kto_engine import read_examples
from tests.benchmarks.report import data_parser, print_report
from trainer.dataset.batch import Batch, make_batch
from trainer.dataset.tokenise import tokenise
from trainer.engine import kto
from trainer.engine.fast.layers import fast_layers
from trainer.engine.shared_prefix_trainer import SharedPrefixTrainer
from trainer.engine.trl_trainer import ExactTrainer
from trainer.model.base_model import load_model, resolve

Adapter = dict[str, torch.Tensor]
Scored = tuple[torch.Tensor, torch.Tensor]  # r of the replies, and of the mismatched ones, in nats
MEASURES = {"loss": "loss", "kl": "z0", "rewards/chosen": "reward up", "rewards/rejected": "reward down"}


class Adapters(TrainerCallback):
    """Copies of the adapter as it was before each step."""

    def __init__(self) -> None:
        self.kept: list[Adapter] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.kept.append(
            {n: p.detach().clone() for n, p in kwargs["model"].named_parameters() if p.requires_grad}
        )


class Training:
    """One variant: its trainer, and scores of a micro-batch with an adapter that is given to it."""

    def __init__(self, engine: str, precision: str, arguments: argparse.Namespace, folder: Path) -> None:
        settings = Settings(
            data_dir=arguments.data_dir,
            precision=precision,
            max_length=arguments.max_length,
            batch_size=arguments.batch_size,
            learning_rate=arguments.learning_rate,
        )
        gc.collect()
        model, tokenizer = load_model(resolve(settings))
        examples = read_examples(arguments.data, every_reply=False)
        self.rows = tokenise(tokenizer, examples, max_length=settings.max_length)[0]
        self.rows = self.rows[: arguments.batch_size * arguments.steps]
        ups = sum(row.label for row in self.rows)
        weights = class_weights(ups, len(self.rows) - ups, settings.max_weight)
        self.max_length, self.adapters = settings.max_length, Adapters()
        args = kto.training_arguments(model, weights, settings, folder / f"{engine} {precision}", False)
        args.save_strategy = "no"
        shared: dict[str, Any] = {
            "max_length": settings.max_length,
            "args": args,
            "peft_config": kto.lora_config(settings),
            "callbacks": [self.adapters],
        }
        self.trainer: Any
        if engine == "trl":
            self.trainer = ExactTrainer(model, tokenizer, self.rows, **shared)
        else:
            self.trainer = SharedPrefixTrainer(model, self.rows, recompute=False, references=None, **shared)
        self.model = self.trainer.model
        self.blocks = list(self.trainer.blocks)
        self.scores: Callable[[Batch], Scored] = (
            self._score_plainly if engine == "trl" else self._score_shared
        )

    def train(self) -> list[dict[str, float]]:
        """Loss, z0 and mean rewards (β·r) of each step."""
        self.trainer.train()
        lines = [line for line in self.trainer.state.log_history if "loss" in line]
        return [{ours: line[name] for name, ours in MEASURES.items() if name in line} for line in lines]

    def score(self, block: list[int], adapter: Adapter) -> Scored:
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(adapter[name])
        with torch.no_grad():
            rows = [self.rows[number] for number in block]
            return self.scores(make_batch(rows, max_length=self.max_length))

    def _score_shared(self, batch: Batch) -> Scored:
        with fast_layers(self.model):
            policy, reference = self.trainer.scorer.policy(batch), self.trainer.scorer.reference(batch)
        return policy.completions - reference.completions, policy.mismatched - reference.mismatched

    def _score_plainly(self, batch: Batch) -> Scored:
        """As TRL scores: autocast, and the softmax over scores that were rounded to bf16."""
        found = []
        for part in ("completion", "mismatched"):
            ratios = []
            for item in batch:
                prompt, completion = item.prompt, getattr(item, part)
                ids = torch.tensor([[*prompt, *(completion or [])]])
                logps = []
                for without in (False, True):
                    adapted = self.model.disable_adapter() if without else nullcontext()
                    with torch.autocast("cpu", torch.bfloat16), adapted:
                        scores = self.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
                    chosen = scores.float().log_softmax(-1).gather(1, ids[0, len(prompt) :, None])
                    logps.append(chosen.sum())
                ratios.append(logps[0] - logps[1])
            found.append(torch.stack(ratios))
        return found[0], found[1]


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where the default model is")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--no-trl", action="store_true", help="leave the yardstick out: it takes longest")
    arguments = parser.parse_args()
    variants = [("shared-prefix", "bf16")] + ([] if arguments.no_trl else [("trl", "bf16")])
    with tempfile.TemporaryDirectory(prefix="thumbloop-bench-") as folder:
        exact = Training("shared-prefix", "fp32", arguments, Path(folder))
        steps = {"fp32": exact.train()}
        adapters = exact.adapters.kept
        expected = [
            exact.score(block, adapter) for block, adapter in zip(exact.blocks, adapters, strict=True)
        ]
        same_weights: dict[str, Any] = {"fp32": [mean_scores(one) for one in expected]}
        errors: dict[str, Any] = {}
        for engine, precision in variants:
            name = f"{engine} {precision}"
            variant = Training(engine, precision, arguments, Path(folder))
            scored = [
                variant.score(block, adapter) for block, adapter in zip(exact.blocks, adapters, strict=True)
            ]
            same_weights[name] = [mean_scores(one) for one in scored]
            errors[name] = [error_of(found, wanted) for found, wanted in zip(scored, expected, strict=True)]
            variant = Training(engine, precision, arguments, Path(folder))
            steps[name] = variant.train()
            del variant
    largest = {
        name: {
            "loss, relative": max(
                abs(one["loss"] / other["loss"] - 1) for one, other in zip(found, steps["fp32"], strict=True)
            ),
            "z0, nats": max(
                abs(one["z0"] - other["z0"]) for one, other in zip(found, steps["fp32"], strict=True)
            ),
        }
        for name, found in steps.items()
        if name != "fp32"
    }
    print_report(
        "precision",
        {"own steps": steps, "own steps, largest difference": largest}
        | {"same weights, mean r in nats": same_weights, "same weights, error of r in nats": errors},
    )


def mean_scores(scored: Scored) -> dict[str, float]:
    own, mismatched = scored
    return {"replies": own.mean().item(), "mismatched": mismatched.mean().item()}


def error_of(found: Scored, expected: Scored) -> dict[str, float]:
    """Of the first step it is the noise floor: there r is 0."""
    return {
        "largest": max((one - other).abs().max().item() for one, other in zip(found, expected, strict=True)),
        "of the mean": abs(found[0].mean() - expected[0].mean()).item(),
        "of z0": abs(found[1].mean() - expected[1].mean()).item(),
    }


if __name__ == "__main__":
    main()
