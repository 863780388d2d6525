"""How often the gate deploys what it should and what it should not, over many draws of votes.

The base model replies to the shipped prompts, and a taste rates the replies (some votes are wrong). Adapters
are trained on true votes, on flipped ones and on random ones, and one is over-trained. Then, for each seed,
other votes are drawn, true and random ones, the taste is learned from them, and the gate judges replies of
each adapter by it.
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
}


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
                labels = [row.label for row in true_rows]
                if name == "flipped votes":
                    labels = [not label for label in labels]
                elif name == "random votes":
                    random.Random(1).shuffle(labels)
                self.rows = [
                    dataclasses.replace(row, example=dataclasses.replace(row.example, label=label))
                    for row, label in zip(true_rows, labels, strict=True)
                ]
                self.ups = sum(row.label for row in self.rows)
                RECIPES[name] = changes
                self.train(name)
            adapters[name.replace(" ", "-")] = folder
        self.sampler = ReplySampler(self.source, adapters, self.settings, lambda _state: None)

    def run(self) -> dict[str, Any]:
        import numpy as np

        from app.simulation.measures import measure
        from trainer.gate.comparison import choose_strength, sampled
        from trainer.gate.decision import ReplyEvidence, judge_replies
        from trainer.taste.features import read_features
        from trainer.taste.taste import Abstention, learn_taste

        pool = self.pool()
        features = read_features(self.sampler.model, pool, log_probabilities=False)
        liked = [self.taste(self.simulated(dataclasses.asdict(reply))) for reply in pool]
        names: list[str | None] = [None, *(name.replace(" ", "-") for name in TRAINED)]
        found: dict[tuple[str | None, int], Any] = {}
        shares: dict[str, Any] = {}
        for name in names:
            replies = []
            for seed in range(self.seeds.reply_seeds):
                one = self.sampler.sample(self.asked(self.measured)[:40], name, seed=50 + seed)
                found[name, seed] = one, self.sampler.read(one, "replies")
                replies += [self.simulated(dataclasses.asdict(reply)) for reply in one]
            shares[name or "base"] = measure(replies, self.taste)["liked"]
        outcomes: dict[str, Counter[str]] = {}
        for seed in range(self.seeds.seeds):
            draw = random.Random(f"gate {seed}")
            rows = draw.sample(range(len(pool)), self.seeds.votes)
            share = sum(liked[row] for row in rows) / len(rows)
            kinds = {
                "true": [liked[row] != (draw.random() < self.seeds.noise) for row in rows],
                "random": [draw.random() < share for _ in rows],
            }
            for kind, labels in kinds.items():
                taste = learn_taste(
                    [features[row] for row in rows], labels, [pool[row].prompt for row in rows], seed
                )

                def evidence(name: str | None, at: int, taste: Any = taste) -> Any:
                    replies, read = found[name, at]
                    return sampled(
                        [reply.text for reply in replies],
                        [reply.finished for reply in replies],
                        [one.log_probability for one in read],
                        None if isinstance(taste, Abstention) else np.asarray(taste.score(read)),
                    )

                at = seed % self.seeds.reply_seeds
                base = evidence(None, at)
                for name in names[1:]:
                    candidates = {1.0: evidence(name, at)}
                    strength = choose_strength(candidates, base, self.settings)
                    verdict = judge_replies(
                        ReplyEvidence(base, base, candidates, strength, taste), self.settings
                    )
                    outcomes.setdefault(f"{name}, judged by {kind} votes", Counter())[verdict.outcome] += 1
        return {"liked": shares, "outcomes": {name: dict(one) for name, one in outcomes.items()}}


if __name__ == "__main__":
    main()
