"""What each recipe makes of the same votes: replies to unseen prompts, by a simulated taste.

The base model replies to the shipped prompts, the taste votes (some votes are wrong), each recipe trains on
the same votes, and its replies to prompts that nobody voted on are measured. The pool of rated replies is
kept in `--out` and used again. Takes some ten minutes for each recipe on two cores.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

from tests.benchmarks.report import print_report

RECIPES: dict[str, dict[str, Any]] = {
    "base": {},
    "ours": {},
    "votes alone": {"sampled_prompts": 0},
    "kto alone": {"sampled_prompts": 0, "nll_weight": 0.0},
    "unweighted": {"sampled_prompts": 0, "max_weight": 1.0},
    "trl": {
        "engine": "trl",
        "learning_rate": 1e-6,
        "max_weight": 1.0,
        "sampled_prompts": 0,
        "max_repetition": 1,
    },  # KTOConfig's default rate
    "sft on liked": {},
}
SYSTEM = "You are a helpful assistant."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--taste", default="brief")
    parser.add_argument("--votes", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("recipes"))
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from trainer.launch.environment import prepare_process

    prepare_process()
    bench = Bench(given)
    found = {name: bench.run(name) for name in given.recipes.split(",")}
    plan = {name: str(value) for name, value in vars(given).items()}
    print_report("recipes", {"plan": plan, "up": bench.ups, "recipes": found})


class Bench:
    """The votes of a taste on the base model's replies, and the prompts to measure on."""

    def __init__(self, given: argparse.Namespace) -> None:
        from app.simulation.prompts import read_prompts, split_prompts
        from app.simulation.tastes import load_taste
        from storage.settings import Settings
        from trainer.model.base_model import load_tokenizer, resolve

        self.given, self.folder = given, given.out
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings = Settings(data_dir=self.folder / "data", max_new_tokens=128)
        self.source = resolve(self.settings)
        self.tokenizer = load_tokenizer(self.source)
        self.taste = load_taste(given.taste)
        chatted, self.measured = split_prompts(read_prompts(), measured=48, seed=0)
        self.prompts = {prompt.text: prompt for prompt in (*chatted, *self.measured)}
        file = self.folder / "pool.json"
        if not file.exists():
            pool = [reply for seed in (1, 2, 3) for reply in self.replies(None, chatted, seed)]
            file.write_text(json.dumps([dataclasses.asdict(reply) for reply in pool]))
        self.rows = self.rated(json.loads(file.read_text()))
        self.ups = sum(row.label for row in self.rows)

    def rated(self, pool: list[dict[str, Any]]) -> list[Any]:
        """As many of the pool's replies as there are votes, with the votes."""
        from storage.examples.example import Example
        from trainer.dataset.tokenise import TokenisedExample

        draw = random.Random(self.given.seed)
        rows = []
        for number, reply in enumerate(draw.sample(pool, self.given.votes)):
            label = self.taste(self.simulated(reply)) != (draw.random() < self.given.noise)
            prompt = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": reply["prompt"]}]
            completion = [{"role": "assistant", "content": reply["text"]}]
            example = Example(
                prompt, completion, label, message_id=str(number), chat_id=reply["prompt"], source="web"
            )
            rows.append(TokenisedExample(example, reply["prompt_ids"], reply["completion_ids"]))
        return rows

    def simulated(self, reply: dict[str, Any]) -> Any:
        from app.simulation.tastes import SimulatedReply

        prompt = self.prompts[reply["prompt"]]
        return SimulatedReply(prompt.text, prompt.language, prompt.answer, reply["text"], reply["finished"])

    def replies(self, adapter: Path | None, prompts: list[Any], seed: int) -> list[Any]:
        """A reply of the base model, or of an adapter on it, to each prompt."""
        from trainer.taste.sampler import ReplySampler

        adapters = {"adapter": adapter} if adapter else {}
        sampler = ReplySampler(self.source, adapters, self.settings, lambda _state: None)
        return sampler.sample(self.asked(prompts), "adapter" if adapter else None, seed=seed)

    def asked(self, prompts: list[Any]) -> list[Any]:
        """The prompts as the server would render them."""
        from trainer.dataset.template import prompt_ids
        from trainer.taste.sampler import Prompt

        system = {"role": "system", "content": SYSTEM}
        return [
            Prompt(messages, prompt_ids(self.tokenizer, messages))
            for one in prompts
            for messages in [[system, {"role": "user", "content": one.text}]]
        ]

    def pool(self) -> list[Any]:
        """The base model's replies that are rated."""
        from trainer.taste.features import Reply

        return [Reply(**reply) for reply in json.loads((self.folder / "pool.json").read_text())]

    def run(self, name: str) -> dict[str, Any]:
        from app.simulation.measures import measure

        adapter = None if name == "base" else self.train(name)
        found = [reply for seed in (7, 8) for reply in self.replies(adapter, self.measured, seed)]
        return measure([self.simulated(dataclasses.asdict(reply)) for reply in found], self.taste)

    def train(self, name: str) -> Path:
        from storage.examples.weights import class_weights
        from trainer.adapters.tuning_modes import load_for_training
        from trainer.dataset.repetition import without_repetition
        from trainer.dataset.tokenise import LeftOut
        from trainer.engine import kto

        folder = self.folder / name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        settings = self.source.complete(self.settings.model_copy(update=RECIPES[name]))
        model, tokenizer = load_for_training(self.source, settings)
        if name == "sft on liked":
            trained = self.fine_tune(model, tokenizer, settings, folder)
        else:
            rows = without_repetition(self.rows, LeftOut(), settings.max_repetition)
            rows += self.sampled(settings, rows)
            ups = sum(row.label for row in rows)
            weights = class_weights(ups, len(rows) - ups, settings.max_weight)
            trained, _ = kto.train(
                *(model, tokenizer, rows),
                weights=weights,
                settings=settings,
                output_dir=folder / "checkpoints",
            )
        kto.save_adapter(trained, folder / "adapter", base_model=self.source.name)
        return folder / "adapter"

    def sampled(self, settings: Any, rows: list[Any]) -> list[Any]:
        """The rows that a run would add to the votes."""
        from trainer.taste.sampled_rows import sample_liked

        if not settings.sampled_prompts:
            return []
        return sample_liked(self.source, None, rows, settings=settings, report=lambda _state: None).rows

    def fine_tune(self, model: Any, tokenizer: Any, settings: Any, folder: Path) -> Any:
        """TRL's supervised fine-tuning on the liked replies, with our rate, rank and batches."""
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        from trainer.engine import kto

        liked = [row.example for row in self.rows if row.label]
        data = Dataset.from_list([{"prompt": one.prompt, "completion": one.completion} for one in liked])
        config = SFTConfig(
            output_dir=str(folder / "checkpoints"),
            learning_rate=settings.learning_rate,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            bf16=settings.precision == "bf16",
            use_cpu=model.device.type == "cpu",
            save_strategy="no",
            report_to="none",
        )
        trainer = SFTTrainer(
            model,
            args=config,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=kto.lora_config(settings),
        )
        trainer.train()
        return trainer.model


if __name__ == "__main__":
    main()
