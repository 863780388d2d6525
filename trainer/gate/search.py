"""The search for the strength that a candidate's replies suggest. It knows no model."""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from storage.settings import Settings
from trainer.gate.comparison import Sampled, choose_strength, is_good_enough, is_open, needed_confidence
from trainer.gate.decision import ReplyEvidence
from trainer.taste.sampler import BASE, Version
from trainer.taste.taste import Abstention, Taste

log = logging.getLogger(__name__)

CANDIDATE = "candidate"


class Replies(Protocol):
    """Replies of versions to the first of the prompts."""

    def sample(self, versions: Sequence[Version], number: int, /) -> None:
        """Let these versions reply to so many prompts, together; `measure` does it for one that has not."""

    def measure(self, version: Version, number: int, /) -> Sampled: ...


def search(
    replies: Replies,
    strengths: Sequence[float],
    *,
    deployed: Version,
    prompts: int,
    taste: Taste | Abstention,
    settings: Settings,
    is_over: Callable[[], bool] = lambda: False,
) -> ReplyEvidence:
    """Try the candidate from the largest strength down, until one is not worse and does no harm.

    All versions first reply to `gate_prompts` of the `prompts`. Where a strength may be better or worse than
    the deployed version, they reply to all of them. Once the time `is_over`, the search tries nothing more.
    """
    number = min(settings.gate_prompts, prompts)
    looks = 1 if number == prompts else 2
    confidence = needed_confidence(settings, looks)
    tried: list[Version] = [(CANDIDATE, strength) for strength in sorted(strengths, reverse=True)]
    replies.sample([BASE, deployed, tried[0]], number)
    base, old = (replies.measure(one, number) for one in (BASE, deployed))
    found: dict[float, Sampled] = {}
    for version in tried:
        strength = version[1]
        if found and is_over():
            log.info("There is no time for the strength %g.", strength)
            break
        found[strength] = replies.measure(version, number)
        unsure = is_open(found[strength], old, base, settings, confidence=confidence)
        if unsure and number < prompts and not is_over():
            log.info("Replies to %d prompts leave it open; more follow, to %d.", number, prompts)
            number = prompts
            replies.sample([BASE, deployed, *tried[: len(found)]], number)
            base, old = (replies.measure(one, number) for one in (BASE, deployed))
            found = {one: replies.measure((CANDIDATE, one), number) for one in found}
            unsure = is_open(found[strength], old, base, settings, confidence=confidence)
        # Less of what is liked better is less of what the votes ask for; of what may be better it is one more
        # chance to err.
        if unsure or is_good_enough(found[strength], old, base, settings, confidence=confidence):
            break
    strength = choose_strength(found, base, settings)
    log.info("Strength %g of %s.", strength, ", ".join(f"{one:g}" for one in strengths))
    return ReplyEvidence(base, old, found, strength, taste, looks)
