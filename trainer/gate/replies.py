"""Samples replies of the candidate, at several strengths, and of the deployed version, to the same prompts.

What the votes say about old replies does not show what a version now writes. So the gate also reads new ones:
what the learned taste makes of them, and whether the text has suffered.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from storage.errors import InvalidInput
from storage.examples.filters import is_judged
from storage.settings import Settings
from trainer.dataset.tokenise import TokenisedExample
from trainer.gate.comparison import General, Sampled, sampled
from trainer.gate.decision import ReplyEvidence, Verdict, judge_replies
from trainer.gate.general import read_general
from trainer.gate.prompts import gate_prompts
from trainer.gate.search import CANDIDATE, search
from trainer.judge.asking import ask_preference
from trainer.model.base_model import BaseModelSource
from trainer.taste.features import Features, KnownFeatures, Reply
from trainer.taste.sampler import BASE, Prompt, ReplySampler, Report, Share, Version, called
from trainer.taste.taste import Abstention, Taste

log = logging.getLogger(__name__)

DEPLOYED = "deployed"
# With a budget, these prompts are replied to first, to know how long one takes; no fewer are judged.
FIRST = 8


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
    known: KnownFeatures | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> ReplyEvidence:
    """Learn the taste of all `votes`, sample replies to held-out prompts and general ones, choose a strength.

    `candidate` and `deployed` are folders of verified adapters; None is the base model. The search goes
    from the largest strength down (`search`), with up to `gate_max_prompts` prompts where one may be better
    or worse. Within `gate_seconds` by `clock`, fewer prompts are replied to, and smaller strengths are not
    tried. `known` is that of `ReplySampler.learn`.
    """
    adapters = {CANDIDATE: candidate} | ({DEPLOYED: deployed} if deployed else {})
    with ReplySampler(source, adapters, settings, report) as sampler:
        taste = sampler.learn(
            [row for row in votes if settings.judge_in_gate or not is_judged(row.example.origin)], known
        )
        log.info("%s", taste.reason if isinstance(taste, Abstention) else taste.sentence)
        prompts = gate_prompts(
            held_out,
            sampler.tokenizer,
            count=max(settings.gate_prompts, settings.gate_max_prompts),
            longest=sampler.longest_prompt,
            system_prompt=settings.system_prompt,
        )
        versions = _Versions(sampler, prompts, taste)
        began, budget = clock(), settings.gate_seconds

        def is_over() -> bool:
            return bool(budget) and clock() - began > budget

        if budget and len(prompts) > FIRST:
            versions.sample([BASE], FIRST)
            compared = 3 if deployed else 2  # with the base model and the largest strength
            affordable = int(FIRST * budget / compared / max(clock() - began, 1e-9))
            if affordable < len(prompts):
                prompts = prompts[: max(FIRST, affordable)]
                log.info("There is time for replies to %d prompts in %g s.", len(prompts), budget)

        old_version = (DEPLOYED, 1.0) if deployed else BASE
        evidence = search(
            versions,
            strengths,
            deployed=old_version,
            prompts=len(prompts),
            taste=taste,
            settings=settings,
            is_over=is_over,
        )
    if not settings.gate_judge or not evidence.strength:
        return evidence
    try:
        judge = ask_preference(
            settings.gate_judge,
            [prompt.messages for prompt in prompts[: evidence.prompts]],
            versions.texts((CANDIDATE, evidence.strength)),
            versions.texts(old_version),
            lambda done: report({"phase": "asking the judge", "step": done, "steps": evidence.prompts}),
        )
    except InvalidInput as error:  # such as a key that stands in a variable which is not set
        log.warning("The judge was not asked: %s", error.message)
        return evidence
    return replace(evidence, judge=judge)


class _Versions:
    """Replies of versions, at a strength, to the first of the prompts; each is sampled and read once."""

    def __init__(self, sampler: ReplySampler, prompts: Sequence[Prompt], taste: Taste | Abstention) -> None:
        self.sampler, self.prompts, self.taste = sampler, prompts, taste
        self._replies: dict[Version, list[Reply]] = defaultdict(list)
        self._features: dict[Version, list[Features]] = defaultdict(list)
        self._general: dict[Version, General] = {}

    def sample(self, versions: Sequence[Version], number: int) -> None:
        """Let those versions reply to the first `number` prompts that have not done so."""
        shares = {
            one: Share(self.prompts[len(self._replies[one]) : number], *one, first=len(self._replies[one]))
            for one in versions
            if len(self._replies[one]) < number
        }
        for one, replies in zip(shares, self.sampler.sample_shares([*shares.values()]), strict=True):
            self._replies[one] += replies

    def measure(self, version: Version, number: int) -> Sampled:
        self.sample([version], number)
        replies, features = self._replies[version], self._features[version]
        features += self.sampler.read(replies[len(features) :], called(version[0]))
        if version not in self._general:
            self.sampler.report({"phase": "reading general texts"})
            new = [one for one in self._replies if one not in self._general]
            self._general |= zip(new, read_general(self.sampler, *new), strict=True)
        return sampled(
            [prompt.text for prompt in self.prompts[:number]],
            self.texts(version),
            [reply.finished for reply in replies],
            [one.log_probability for one in features],
            self._general[version],
            None if isinstance(self.taste, Abstention) else self.taste.score(features),
        )

    def texts(self, version: Version) -> list[str]:
        return [reply.text for reply in self._replies[version]]
