"""Samples replies of the base model and of adapters, as the server would, and reads them for the taste."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from storage.settings import Settings
from trainer.dataset.selection import is_vote
from trainer.dataset.tokenise import TokenisedExample
from trainer.engine.fast.layers import is_vanilla
from trainer.engine.fast.lora import lora_forward
from trainer.generation.replies import AT_ONCE, generate_replies
from trainer.generation.threads import AVAILABLE_THREADS, limit_threads, useful_processes
from trainer.model.base_model import BaseModelSource, end_ids, load_model
from trainer.taste.features import Features, KnownFeatures, Reply, read_features
from trainer.taste.sampling_workers import SamplingWorker
from trainer.taste.taste import Abstention, Taste, learn_taste

Report = Callable[[dict[str, object]], None]

Version = tuple[str | None, float]  # the name of an adapter, None for the base model, and its strength
BASE: Version = (None, 1.0)

LEAST = 8  # replies for which another process is worth while


@dataclass(frozen=True)
class Prompt:
    """A conversation to reply to: its messages, and their token ids."""

    messages: Sequence[Mapping[str, str]]
    ids: list[int]

    @classmethod
    def of(cls, row: TokenisedExample) -> "Prompt":
        return cls(row.example.prompt, row.prompt_ids)

    @property
    def text(self) -> str:
        """What the reply answers, the last message; '' if there is none."""
        return self.messages[-1]["content"] if self.messages else ""


@dataclass(frozen=True)
class Share:
    """Prompts to reply to, by an adapter at a strength; the arguments of `ReplySampler.sample`."""

    prompts: Sequence[Prompt]
    name: str | None
    strength: float = 1.0
    seed: int | None = None
    first: int = 0

    @property
    def is_large(self) -> bool:
        """Whether half of it is still as many replies as are sampled at once."""
        return len(self.prompts) >= 2 * AT_ONCE

    def parts(self, count: int) -> list["Share"]:
        """At most `count` parts, in order."""
        count = max(1, min(count, len(self.prompts) // LEAST))
        ends = [len(self.prompts) * one // count for one in range(count + 1)]
        return [
            replace(self, prompts=self.prompts[start:end], first=self.first + start)
            for start, end in pairwise(ends)
        ]


class ReplySampler:
    """The base model with adapters by name. `adapters` are folders of verified adapters.

    `report` receives the progress, and may raise to stop. A small model on a CPU samples in several
    `processes`, by default as many as help; close it to end the others.
    """

    def __init__(
        self,
        source: BaseModelSource,
        adapters: dict[str, Path],
        settings: Settings,
        report: Report,
        processes: int | None = None,
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
        self.ends = end_ids(self.base, self.tokenizer)
        self.settings, self.report = settings, report
        self.longest_reply = min(settings.max_new_tokens, settings.gate_reply_tokens)
        self.longest_prompt = source.max_context - self.longest_reply
        others = (processes or useful_processes(self.base)) - 1
        make = partial(ReplySampler, source, adapters, settings, _ignore, processes=1)
        self.workers = [SamplingWorker(make) for _ in range(others)]

    def __enter__(self) -> "ReplySampler":
        return self

    def __exit__(self, *_raised: object) -> None:
        for worker in self.workers:
            worker.end()

    def learn(
        self, votes: Sequence[TokenisedExample], known: KnownFeatures | None = None
    ) -> Taste | Abstention:
        """The taste of the votes among these rows. Corrections and signals judge nothing.

        Features that are `known` are not computed again; new ones are added to them.
        """
        known = {} if known is None else known
        votes = [row for row in votes if is_vote(row.example)]
        replies = [
            Reply(
                row.prompt_ids,
                row.completion_ids,
                Prompt.of(row).text,
                row.example.completion[0]["content"],
                row.completion_ids[-1] in self.ends,
            )
            for row in votes
        ]
        new = {reply.key: reply for reply in replies if reply.key not in known}
        found = self.read(list(new.values()), "votes", log_probabilities=False)
        known.update(zip(new, found, strict=True))
        features = [known[reply.key] for reply in replies]
        return learn_taste(features, [row.label for row in votes], [row.chat_id for row in votes])

    def sample(
        self,
        prompts: Sequence[Prompt],
        name: str | None,
        *,
        strength: float = 1.0,
        seed: int | None = None,
        first: int = 0,
    ) -> list[Reply]:
        """A reply to each prompt, by an adapter at a strength, or by the base model without a name.

        Equal seeds, by default that of the settings, give equal draws for the same place; `first` is that of
        the first prompt.
        """
        (found,) = self.sample_shares([Share(prompts, name, strength, seed, first)])
        return found

    def sample_shares(self, shares: Sequence[Share]) -> list[list[Reply]]:
        """The replies of each share. Several processes sample at once: a share each, or parts of each share.

        A share of few prompts takes as long as its longest reply, so that parts of it would gain little.
        """
        processes = 1 + len(self.workers)
        parts = [
            (number, part)
            for number, share in enumerate(shares)
            for part in share.parts(processes if len(shares) < processes or share.is_large else 1)
        ]
        lanes = [[part for _, part in parts[lane::processes]] for lane in range(processes)]
        what = " and ".join(dict.fromkeys(called(share.name) for share in shares))
        progress = self._progress(f"sampling {what}", sum(len(share.prompts) for share in shares))
        begun = [worker.begin(lane) for worker, lane in zip(self.workers, lanes[1:], strict=True) if lane]

        own = 0

        def note(done: int) -> None:
            nonlocal own
            own = done
            progress(own + sum(worker.look() for worker in begun))

        found = [self.generate(lanes[0], note)]
        for worker, lane in zip(begun, lanes[1:], strict=False):
            replies = worker.wait(lambda: note(own))
            found.append(self.generate(lane, _ignore) if replies is None else replies)
        together: list[list[Reply]] = [[] for _ in shares]
        for place, (number, _) in enumerate(parts):
            together[number] += found[place % processes][place // processes]
        return together

    def generate(self, shares: Sequence[Share], progress: Callable[[int], None]) -> list[list[Reply]]:
        """The replies of each share, sampled in this process; `progress` receives how many there are."""
        found: list[list[Reply]] = []
        for share in shares:
            found.append(self._generate(share, partial(_beyond, progress, sum(map(len, found)))))
        torch.set_num_threads(AVAILABLE_THREADS)  # the engine may have left one
        return found

    def _generate(self, share: Share, progress: Callable[[int], None]) -> list[Reply]:
        with self.version(share.name, share.strength):
            replies = generate_replies(
                self.base,
                [prompt.ids for prompt in share.prompts],
                end_ids=self.ends,
                temperature=self.settings.temperature,
                top_p=self.settings.top_p,
                max_new_tokens=self.longest_reply,
                seed=self.settings.seed if share.seed is None else share.seed,
                first=share.first,
                progress=progress,
            )
        return [
            Reply(
                prompt.ids,
                reply.token_ids,
                prompt.text,
                self.tokenizer.decode(reply.token_ids, skip_special_tokens=True),
                reply.finished,
            )
            for prompt, reply in zip(share.prompts, replies, strict=True)
        ]

    @contextmanager
    def version(self, name: str | None, strength: float = 1.0) -> Iterator[None]:
        """Compute with an adapter at a strength, or with the base model without a name."""
        if name:
            self.model.set_adapter(name)
            for layer, full in zip(self.layers, self.full, strict=True):
                layer.scaling[name] = full[name] * strength
        plain = isinstance(self.model, PeftModel) and not name
        with self.model.disable_adapter() if plain else nullcontext():
            yield

    def read(self, replies: Sequence[Reply], what: str, *, log_probabilities: bool = True) -> list[Features]:
        """The features of replies; `what` they are is shown with the progress."""
        progress = self._progress(f"reading {what}", len(replies))
        return read_features(self.model, replies, progress, log_probabilities=log_probabilities)

    def _progress(self, phase: str, steps: int) -> Callable[[int], None]:
        return lambda done: self.report({"phase": phase, "step": done, "steps": steps})


def _beyond(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


def _ignore(_state: object) -> None:
    """Progress that nobody watches."""


def called(name: str | None) -> str:
    return f"replies of the {name} version" if name else "replies of the base model"
