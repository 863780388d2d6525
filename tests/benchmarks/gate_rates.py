"""How often the gate deploys what it should and what it should not, over many draws of votes.

The base model replies to the shipped prompts, and a taste rates the replies (some votes are wrong). Adapters
are trained on true votes, on flipped ones and on random ones; one is over-trained, one on replies that repeat
themselves, and one on votes for replies without an end. Then, for each seed, other votes are drawn, true and
random ones, the taste is learned from them, and the gate judges replies of each adapter by it. Beside it
stands what the gate says without replies (THUMBLOOP_GATE_PROMPTS=0): it deploys what is not worse on held-out
votes.
"""

import argparse
import dataclasses
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

from tests.benchmarks.recipes import RECIPES, Bench
from tests.benchmarks.report import print_report

TRAINED = {
    "true votes": {},
    "flipped votes": {"sampled_prompts": 0},
    "random votes": {"sampled_prompts": 0},
    "over-trained": {"sampled_prompts": 0, "learning_rate": 2e-3, "nll_weight": 0.0},
    "repetition": {"sampled_prompts": 0},
    "no end": {"sampled_prompts": 0},
}
REPEATED = 16  # tokens of a reply, four times over
HELD_OUT = 40  # votes of each draw, for the gate without replies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--taste", default="brief")
    parser.add_argument("--votes", type=int, default=200, help="that the gate sees")
    parser.add_argument("--trained-votes", type=int, default=100, help="that an adapter is trained on")
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--reply-seeds", type=int, default=5, help="samples of replies of each adapter")
    parser.add_argument("--out", type=Path, default=Path("recipes"), help="folder of the pool, kept")
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from trainer.launch.environment import prepare_process

    prepare_process()
    rates = Rates(given)
    plan = {name: str(value) for name, value in vars(given).items()}
    print_report("gate rates", {"plan": plan, **rates.run()})


class Rates(Bench):
    """The pool of `recipes`, with the features of its replies, and replies of each adapter."""

    def __init__(self, given: argparse.Namespace) -> None:
        super().__init__(argparse.Namespace(**vars(given) | {"votes": given.trained_votes, "seed": 1000}))
        from trainer.taste.sampler import ReplySampler

        self.seeds = given
        adapters = {}
        true_rows = self.rows
        for name, changes in TRAINED.items():
            folder = self.folder / name.replace(" ", "-") / "adapter"
            if not folder.exists():
                self.rows = self.changed(true_rows, name)
                self.ups = sum(row.label for row in self.rows)
                RECIPES[name] = changes
                self.train(name)
            adapters[name.replace(" ", "-")] = folder
        self.sampler = ReplySampler(self.source, adapters, self.settings, lambda _state: None)

    def changed(self, rows: list[Any], name: str) -> list[Any]:
        """These rated replies as the adapter of that name sees them."""
        labels = [row.label for row in rows]
        if name == "flipped votes":
            labels = [not label for label in labels]
        elif name == "random votes":
            random.Random(1).shuffle(labels)
        elif name == "no end":
            labels = [row.completion_ids[-1] != self.tokenizer.eos_token_id for row in rows]
        elif name == "repetition":  # every second reply repeats itself and is liked
            labels = [number % 2 == 0 for number in range(len(rows))]
            rows = [
                dataclasses.replace(row, completion_ids=row.completion_ids[:REPEATED] * 4) if liked else row
                for row, liked in zip(rows, labels, strict=True)
            ]
        return [
            dataclasses.replace(row, example=dataclasses.replace(row.example, label=label))
            for row, label in zip(rows, labels, strict=True)
        ]

    def run(self) -> dict[str, Any]:
        from app.simulation.measures import measure
        from storage.examples.weights import class_weights
        from trainer.gate.comparison import choose_strength
        from trainer.gate.decision import ReplyEvidence, judge, judge_replies
        from trainer.gate.general import read_general
        from trainer.taste.features import read_features
        from trainer.taste.taste import learn_taste

        pool = self.pool()
        features = read_features(self.sampler.model, pool, log_probabilities=False)
        liked = [self.taste(self.simulated(dataclasses.asdict(reply))) for reply in pool]
        names: list[str | None] = [None, *(name.replace(" ", "-") for name in TRAINED)]
        general = dict(zip(names, read_general(self.sampler, *((name, 1.0) for name in names)), strict=True))
        found: dict[tuple[str | None, int], Any] = {}
        shares: dict[str, Any] = {}
        for name in names:
            replies = []
            for seed in range(self.seeds.reply_seeds):
                one = self.sampler.sample(self.asked(self.measured)[:40], name, seed=50 + seed)
                found[name, seed] = one, self.sampler.read(one, "replies")
                replies += [self.simulated(dataclasses.asdict(reply)) for reply in one]
            shares[name or "base"] = measure(replies, self.taste)
        scored = self.scored(names)
        outcomes: dict[str, Counter[str]] = {}
        for seed in range(self.seeds.seeds):
            draw = random.Random(f"gate {seed}")
            rows = draw.sample(range(len(pool)), self.seeds.votes)
            share = sum(liked[row] for row in rows) / len(rows)
            held = draw.sample(range(len(self.first)), HELD_OUT)
            # Votes by their reply in the pool; a reply that is also held out has the same vote there.
            votes = [*rows, *held]
            kinds = {
                "true": {row: liked[row] != (draw.random() < self.seeds.noise) for row in votes},
                "random": {row: draw.random() < share for row in votes},
            }
            at = seed % self.seeds.reply_seeds
            for kind, labels in kinds.items():
                ups = sum(labels[row] for row in rows)
                taste = learn_taste(
                    [features[row] for row in rows],
                    [labels[row] for row in rows],
                    [pool[row].prompt for row in rows],
                    seed,
                )
                weights = class_weights(ups, len(rows) - ups, self.settings.max_weight)
                base = self.evidence(*found[None, at], general[None], taste)
                old = self.evaluated(held, labels, scored, None, weights)
                for name in names[1:]:
                    candidates = {1.0: self.evidence(*found[name, at], general[name], taste)}
                    strength = choose_strength(candidates, base, self.settings)
                    evidence = ReplyEvidence(base, base, candidates, strength, taste)
                    new = self.evaluated(held, labels, scored, name, weights)
                    verdicts = {
                        "gate": judge_replies(evidence, self.settings),
                        "without replies": judge(new, old, finite=True, settings=self.settings),
                    }
                    for gate, verdict in verdicts.items():
                        key = f"{name}, {kind} votes, {gate}"
                        outcomes.setdefault(key, Counter())[verdict.outcome] += 1
        return {"replies": shares, "outcomes": {name: dict(one) for name, one in outcomes.items()}}

    def evidence(self, replies: list[Any], read: list[Any], general: Any, taste: Any) -> Any:
        """A version's replies as the gate sees them."""
        import numpy as np

        from trainer.gate.comparison import sampled
        from trainer.taste.taste import Abstention

        return sampled(
            [reply.prompt for reply in replies],
            [reply.text for reply in replies],
            [reply.finished for reply in replies],
            [one.log_probability for one in read],
            general,
            None if isinstance(taste, Abstention) else np.asarray(taste.score(read)),
        )

    def scored(self, names: list[str | None]) -> dict[str | None, Any]:
        """Log-probabilities of the pool's first replies to each prompt, `self.first`, by version."""
        from storage.examples.example import Example
        from trainer.dataset.tokenise import TokenisedExample
        from trainer.engine.select import scoring

        replies = self.pool()
        self.first = [
            TokenisedExample(
                Example([], [], True, message_id=str(number), chat_id=reply.prompt, source="web"),
                reply.prompt_ids,
                reply.completion_ids,
            )
            for number, reply in enumerate(replies[: len({reply.prompt for reply in replies})])
        ]
        held_out = self.held_out(self.first)
        with scoring("shared-prefix", self.sampler.model) as scorer:
            found = {None: held_out.score(scorer.reference)}
            for name in names[1:]:
                self.sampler.model.set_adapter(name)
                found[name] = held_out.score(scorer.policy)
        return found

    def evaluated(
        self, held: list[int], labels: dict[int, bool], scored: dict[str | None, Any], name: Any, weights: Any
    ) -> Any:
        """The measures of a version on these replies with these votes."""
        from trainer.engine.prefix.scorer import Scores

        policy, reference = (
            Scores(scored[one].completions[held], scored[one].mismatched[held]) for one in (name, None)
        )
        rows = [
            dataclasses.replace(row, example=dataclasses.replace(row.example, label=labels[number]))
            for number, row in zip(held, (self.first[number] for number in held), strict=True)
        ]
        return self.held_out(rows).evaluate(policy, reference, weights=weights, beta=self.settings.beta)

    def held_out(self, rows: list[Any]) -> Any:
        from trainer.gate.held_out import HeldOut

        return HeldOut(
            rows,
            loss_type=self.settings.loss_type,
            max_length=self.settings.max_length,
            batch_size=self.settings.batch_size,
        )


if __name__ == "__main__":
    main()
