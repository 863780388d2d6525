"""Samples replies of the candidate, at several strengths, and of the deployed version, to the same prompts.

What the votes say about old replies does not show what a version now writes. So the gate also reads new ones:
what the learned taste makes of them, and whether the text has suffered.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraLayer

from storage.settings import Settings
from trainer.dataset.selection import is_vote
from trainer.dataset.tokenise import TokenisedExample
from trainer.engine.fast.layers import is_vanilla
from trainer.engine.fast.lora import lora_forward
from trainer.gate.comparison import Sampled, choose_strength, is_good_enough, sampled
from trainer.gate.decision import ReplyEvidence, Verdict, judge_replies
from trainer.gate.features import Features, Reply, read_features
from trainer.gate.prompts import GatePrompt, gate_prompts, last_message
from trainer.gate.taste import Abstention, Taste, learn_taste
from trainer.generation.replies import generate_replies
from trainer.generation.threads import limit_threads
from trainer.model.base_model import BaseModelSource, end_ids, load_model

log = logging.getLogger(__name__)

CANDIDATE, DEPLOYED = "candidate", "deployed"
Report = Callable[[dict[str, object]], None]


def judge_sampled(
    source: BaseModelSource, candidate: Path, deployed: Path | None, *, settings: Settings, **given: Any
) -> tuple[Verdict, float]:
    """Sample replies of both versions (`sample_versions`) and judge them; the verdict and the strength.

    Where no replies can be sampled, an admin decides.
    """
    try:
        evidence = sample_versions(source, candidate, deployed, settings=settings, **given)
    except (RuntimeError, ValueError) as error:
        log.warning("No replies could be sampled.", exc_info=error)
        reason = f"Its replies could not be sampled ({error}). An admin decides."
        return Verdict("not_enough_evidence", reason, {}), 1.0
    return judge_replies(evidence, settings), evidence.strength


def sample_versions(
    source: BaseModelSource,
    candidate: Path,
    deployed: Path | None,
    *,
    strengths: Sequence[float],
    votes: Sequence[TokenisedExample],
    held_out: Sequence[TokenisedExample],
    settings: Settings,
    report: Report,
) -> ReplyEvidence:
    """Learn the taste of all `votes`, sample replies to held-out prompts and general ones, choose a strength.

    `candidate` and `deployed` are folders of verified adapters; None is the base model. The search goes
    from the largest strength down and ends at the first that is good enough.
    """
    adapters = {CANDIDATE: candidate} | ({DEPLOYED: deployed} if deployed else {})
    sampler = ReplySampler(source, adapters, held_out, settings, report)
    taste = sampler.learn(votes)
    log.info("%s", taste.reason if isinstance(taste, Abstention) else taste.sentence)
    base = sampler.measure(None)
    old = sampler.measure(DEPLOYED) if deployed else base
    found: dict[float, Sampled] = {}
    for strength in sorted(strengths, reverse=True):
        found[strength] = sampler.measure(CANDIDATE, strength)
        if is_good_enough(found[strength], old, base, settings):
            break  # less would be less of what the votes ask for
    strength = choose_strength(found, base, settings)
    log.info("Strength %g of %s.", strength, ", ".join(f"{one:g}" for one in strengths))
    return ReplyEvidence(base, old, found, strength, taste)


class ReplySampler:
    """The base model with adapters, and the prompts that every version replies to, with the same seed."""

    def __init__(
        self,
        source: BaseModelSource,
        adapters: dict[str, Path],
        held_out: Sequence[TokenisedExample],
        settings: Settings,
        report: Report,
    ) -> None:
        self.base, self.tokenizer = load_model(source)
        self.model = self.base
        for name, folder in adapters.items():
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(str(folder), name)
            else:
                self.model = PeftModel.from_pretrained(self.model, str(folder), adapter_name=name)
        self.model.eval()
        for layer in self.model.modules():
            if is_vanilla(layer):  # as when serving
                layer.forward = partial(lora_forward, layer)
        limit_threads(self.base)
        self.layers = [layer for layer in self.model.modules() if isinstance(layer, LoraLayer)]
        self.full = [dict(layer.scaling) for layer in self.layers]
        self.settings, self.report = settings, report
        self.longest_reply = min(settings.max_new_tokens, settings.gate_reply_tokens)
        self.prompts: list[GatePrompt] = gate_prompts(
            held_out,
            self.tokenizer,
            count=settings.gate_prompts,
            longest=source.max_context - self.longest_reply,
            system_prompt=settings.system_prompt,
        )
        self.taste: Taste | None = None

    def learn(self, votes: Sequence[TokenisedExample]) -> Taste | Abstention:
        """Learn the taste from the votes among these rows; `measure` then applies it.

        Corrections and signals, which may be trained on, judge nothing.
        """
        votes = [row for row in votes if is_vote(row.example)]
        ends = end_ids(self.base, self.tokenizer)
        replies = [
            Reply(
                row.prompt_ids,
                row.completion_ids,
                last_message(row),
                row.example.completion[0]["content"],
                row.completion_ids[-1] in ends,
            )
            for row in votes
        ]
        features = self._read(replies, "votes", log_probabilities=False)
        found = learn_taste(features, [row.label for row in votes], [row.chat_id for row in votes])
        self.taste = found if isinstance(found, Taste) else None
        return found

    def measure(self, name: str | None, strength: float = 1.0) -> Sampled:
        """Sample replies by an adapter at a strength, or by the base model, and read them."""
        replies = self.replies(name, strength)
        features = self._read(replies, f"replies of {_called(name)}")
        return sampled(
            [reply.text for reply in replies],
            [reply.finished for reply in replies],
            [one.log_probability for one in features],
            self.taste.score(features) if self.taste else None,
        )

    def replies(self, name: str | None, strength: float = 1.0) -> list[Reply]:
        """A reply to each prompt, by an adapter at a strength or by the base model."""
        if name:
            self.model.set_adapter(name)
            for layer, full in zip(self.layers, self.full, strict=True):
                layer.scaling[name] = full[name] * strength
        plain = isinstance(self.model, PeftModel) and not name
        with self.model.disable_adapter() if plain else nullcontext():
            found = generate_replies(
                self.base,
                [prompt.ids for prompt in self.prompts],
                end_ids=end_ids(self.base, self.tokenizer),
                temperature=self.settings.temperature,
                top_p=self.settings.top_p,
                max_new_tokens=self.longest_reply,
                seed=self.settings.seed,
                progress=self._progress(f"sampling replies of {_called(name)}", len(self.prompts)),
            )
        return [
            Reply(
                prompt.ids,
                reply.token_ids,
                prompt.text,
                self.tokenizer.decode(reply.token_ids, skip_special_tokens=True),
                reply.finished,
            )
            for prompt, reply in zip(self.prompts, found, strict=True)
        ]

    def _read(self, replies: Sequence[Reply], what: str, **options: bool) -> list[Features]:
        return read_features(self.model, replies, self._progress(f"reading {what}", len(replies)), **options)

    def _progress(self, phase: str, steps: int) -> Callable[[int], None]:
        return lambda done: self.report({"phase": phase, "step": done, "steps": steps})


def _called(name: str | None) -> str:
    return f"the {name} version" if name else "the base model"
