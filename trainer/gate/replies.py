"""Samples replies of the candidate, at several strengths, and of the deployed version, to the same prompts.

What the votes say about old replies does not show what a version now writes. So the gate also reads new ones:
what the learned taste makes of them, and whether the text has suffered.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from storage.errors import InvalidInput
from storage.examples.filters import is_judged
from storage.settings import Settings
from trainer.dataset.tokenise import TokenisedExample
from trainer.gate.comparison import Sampled, choose_strength, is_good_enough, sampled
from trainer.gate.decision import ReplyEvidence, Verdict, judge_replies
from trainer.gate.general import read_general
from trainer.gate.prompts import gate_prompts
from trainer.judge.asking import ask_preference
from trainer.model.base_model import BaseModelSource
from trainer.taste.features import KnownFeatures, Reply
from trainer.taste.sampler import ReplySampler, Report, called
from trainer.taste.taste import Abstention

log = logging.getLogger(__name__)

CANDIDATE, DEPLOYED = "candidate", "deployed"
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
    from the largest strength down and ends at the first that is good enough. Within `gate_seconds` by
    `clock`, fewer prompts are replied to, and smaller strengths are not tried. `known` is that of
    `ReplySampler.learn`.
    """
    adapters = {CANDIDATE: candidate} | ({DEPLOYED: deployed} if deployed else {})
    sampler = ReplySampler(source, adapters, settings, report)
    prompts = gate_prompts(
        held_out,
        sampler.tokenizer,
        count=settings.gate_prompts,
        longest=sampler.longest_prompt,
        system_prompt=settings.system_prompt,
    )
    taste = sampler.learn(
        [row for row in votes if settings.judge_in_gate or not is_judged(row.example.origin)], known
    )
    log.info("%s", taste.reason if isinstance(taste, Abstention) else taste.sentence)

    texts: dict[tuple[str | None, float], list[str]] = {}
    began, budget = clock(), settings.gate_seconds
    first: list[Reply] = []
    if budget and len(prompts) > FIRST:
        first = sampler.sample(prompts[:FIRST], None)
        versions = 3 if deployed else 2  # with the base model and the largest strength
        affordable = int(FIRST * budget / versions / max(clock() - began, 1e-9))
        if affordable < len(prompts):
            prompts = prompts[: max(FIRST, affordable)]
            log.info("There is time for replies to %d prompts in %g s.", len(prompts), budget)

    def measure(name: str | None, strength: float = 1.0) -> Sampled:
        replies = sampler.sample(prompts, name, strength=strength) if name else base_replies()
        texts[name, strength] = [reply.text for reply in replies]
        features = sampler.read(replies, called(name))
        report({"phase": "reading general texts"})
        return sampled(
            [prompt.text for prompt in prompts],
            texts[name, strength],
            [reply.finished for reply in replies],
            [one.log_probability for one in features],
            read_general(sampler, name, strength=strength),
            None if isinstance(taste, Abstention) else taste.score(features),
        )

    def base_replies() -> list[Reply]:
        rest = prompts[len(first) :]
        return [*first, *sampler.sample(rest, None)] if rest else first

    base = measure(None)
    old = measure(DEPLOYED) if deployed else base
    found: dict[float, Sampled] = {}
    for strength in sorted(strengths, reverse=True):
        if found and budget and clock() - began > budget:
            log.info("There is no time for the strength %g.", strength)
            break
        found[strength] = measure(CANDIDATE, strength)
        if is_good_enough(found[strength], old, base, settings):
            break  # less would be less of what the votes ask for
    strength = choose_strength(found, base, settings)
    log.info("Strength %g of %s.", strength, ", ".join(f"{one:g}" for one in strengths))
    judge = None
    if settings.gate_judge and strength:
        try:
            judge = ask_preference(
                settings.gate_judge,
                [prompt.messages for prompt in prompts],
                texts[CANDIDATE, strength],
                texts[DEPLOYED if deployed else None, 1.0],
                lambda done: report({"phase": "asking the judge", "step": done, "steps": len(prompts)}),
            )
        except InvalidInput as error:  # such as a key that stands in a variable which is not set
            log.warning("The judge was not asked: %s", error.message)
    return ReplyEvidence(base, old, found, strength, taste, judge)
