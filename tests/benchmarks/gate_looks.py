"""How often the gate deploys versions that are no better, and better ones, by simulated scores alone.

No model replies. For each prompt the taste's P(liked) of a reply is drawn: a like or a dislike, by how many
replies the version's people like, and how sure the taste is of it. At the strength s a version has s times
its effect. Replies of different strengths are drawn independently, which gives the search most chances to
err. Compares two looks with one look at `gate_prompts` prompts and one at all.
"""

import argparse
from collections import Counter
from typing import Any

import numpy as np

from storage.settings import Settings
from tests.benchmarks.report import print_report
from trainer.gate.comparison import Sampled
from trainer.gate.decision import judge_replies
from trainer.gate.search import search
from trainer.taste.features import Features
from trainer.taste.sampler import BASE, Version
from trainer.taste.taste import Taste, learn_taste

CASES = [(0.4, 0.0), (0.85, 0.0), (0.4, -0.1), (0.4, 0.1), (0.4, 0.2), (0.85, 0.05), (0.85, 0.1)]
LOOKS = {
    "two looks": {},
    "the first alone": {"gate_max_prompts": 0},
    "all prompts at once": {"gate_prompts": 160},
}
SURE = 1.5  # standard deviation of the taste's log-odds around ±2


class Scores:
    """Scores of a base model whose replies a share of people like, and of a version with this effect."""

    def __init__(self, liked: float, effect: float, most: int, seed: int) -> None:
        self.liked, self.effect, self.most = liked, effect, most
        self.draw = np.random.default_rng(seed)
        self.known: dict[Version, Any] = {}

    def sample(self, versions: Any, number: int) -> None:
        """Nothing: `measure` draws."""

    def measure(self, version: Version, number: int) -> Sampled:
        if version not in self.known:
            share = self.liked + (self.effect * version[1] if version != BASE else 0.0)
            odds = np.where(self.draw.random(self.most) < share, 2.0, -2.0)
            self.known[version] = 1 / (1 + np.exp(-odds - SURE * self.draw.standard_normal(self.most)))
        same = np.zeros(number)
        return Sampled(*[same] * 9, distinct_2grams=0.5, taste=self.known[version][:number])


def any_taste() -> Taste:
    """The verdict names one; the scores are not its own."""
    draw = np.random.default_rng(0)
    labels = [bool(number % 2) for number in range(60)]
    features = [
        Features({"words": float(label)}, *draw.standard_normal((2, 8)).astype(np.float32))
        for label in labels
    ]
    taste = learn_taste(features, labels, [str(number) for number in range(60)])
    assert isinstance(taste, Taste), taste.reason
    return taste


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=2000)
    given = parser.parse_args()
    taste = any_taste()
    figures: dict[str, Any] = {}
    for name, changes in LOOKS.items():
        settings = Settings().model_copy(update=changes)
        most = max(settings.gate_prompts, settings.gate_max_prompts)
        for liked, effect in CASES:
            outcomes: Counter[str] = Counter()
            prompts = 0
            for seed in range(given.repetitions):
                scores = Scores(liked, effect, most, seed)
                evidence = search(
                    scores, settings.strengths, deployed=BASE, prompts=most, taste=taste, settings=settings
                )
                outcomes[judge_replies(evidence, settings).outcome] += 1
                prompts += evidence.prompts
            case = f"{name}: {liked:.0%} liked, {100 * effect:+.0f} points"
            figures[case] = {one: count / given.repetitions for one, count in outcomes.items()}
            figures[case]["prompts"] = prompts / given.repetitions
    print_report("gate_looks", figures)


if __name__ == "__main__":
    main()
