"""A tiny base model and an adapter that makes it write other texts, with votes for the replies of one."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from storage.settings import Settings
from tests.support.adapters import build_adapter
from tests.support.examples import rated_reply
from trainer.dataset.template import prompt_ids
from trainer.dataset.tokenise import TokenisedExample
from trainer.model.base_model import BaseModelSource, resolve
from trainer.taste.features import Reply
from trainer.taste.sampler import Prompt, ReplySampler

ADAPTER = "adapter"


class TwoVersions:
    """Both versions reply to `questions`, with these settings. `phases` are those of the progress so far."""

    def __init__(self, model: Path, folder: Path, questions: Sequence[str], **settings: object) -> None:
        given = {"data_dir": folder, "model": str(model), "precision": "fp32", "gate_reply_tokens": 24}
        self.settings = Settings(**(given | settings))  # type: ignore[arg-type]
        self.source: BaseModelSource = resolve(self.settings)
        self.adapter = build_adapter(model, folder / "adapter")
        self.questions = questions
        self.phases: list[str] = []

    def votes(self, liked: str | None) -> list[TokenisedExample]:
        """Votes on a reply of both versions to each question; those of `liked`, None for the base, are up."""
        return [
            rated_reply(reply, name == liked, chat=f"{name} {number}")
            for name, replies in self._rated.items()
            for number, reply in enumerate(replies)
        ]

    @cached_property
    def _rated(self) -> dict[str | None, list[Reply]]:
        with self.sampler() as sampler:
            prompts = self.prompts(sampler)
            return {name: sampler.sample(prompts, name, seed=100) for name in (None, ADAPTER)}

    def sampler(self, processes: int | None = None) -> ReplySampler:
        return ReplySampler(
            self.source, {ADAPTER: self.adapter}, self.settings, self.report, processes=processes
        )

    def prompts(self, sampler: ReplySampler) -> list[Prompt]:
        asked = [[{"role": "user", "content": question}] for question in self.questions]
        return [Prompt(one, prompt_ids(sampler.tokenizer, one)) for one in asked]

    def report(self, state: dict[str, object]) -> None:
        self.phases.append(str(state["phase"]))
