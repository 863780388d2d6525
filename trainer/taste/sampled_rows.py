"""Liked examples beyond the votes: replies sampled to rated prompts and chosen by the taste of the votes.

Where few replies are liked, votes teach almost only what to avoid. So the deployed version replies again to
each rated prompt, until the taste surely likes a reply, `sampled_replies` were sampled, or there are as many
liked rows as disliked ones. This is rejection sampling, as in RAFT (Dong et al. 2023, arXiv 2304.06767), with
the taste as the reward.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from storage.files.atomic import write_atomically
from storage.settings import Settings
from trainer.dataset.repetition import repeats_itself
from trainer.dataset.selection import SAMPLED, is_vote
from trainer.dataset.tokenise import TokenisedExample
from trainer.model.base_model import BaseModelSource
from trainer.taste.features import KnownFeatures
from trainer.taste.sampler import Prompt, ReplySampler, Report
from trainer.taste.taste import Abstention
from trainer.text import counted

DEPLOYED = "deployed"
SAMPLED_FILE = "sampled.json"  # in the folder of a run
# A reply is taken if it is more probably liked than not, and its odds are this many times those of a vote.
BETTER = math.e


@dataclass(frozen=True)
class SampledRows:
    """The rows, of how many prompts and replies they come, and a sentence about them."""

    rows: list[TokenisedExample]
    prompts: int
    replies: int
    reason: str

    def to_metrics(self) -> dict[str, Any]:
        counts = {"rows": len(self.rows), "prompts": self.prompts, "replies": self.replies}
        return {SAMPLED: counts | {"reason": self.reason}}


def sample_liked(
    source: BaseModelSource,
    deployed: Path | None,
    votes: Sequence[TokenisedExample],
    *,
    settings: Settings,
    report: Report,
    known: KnownFeatures | None = None,
) -> SampledRows:
    """Sample replies to the prompts of these votes; those that the taste likes become liked rows.

    `deployed` is the folder of a verified adapter; None is the base model. There are no rows without a taste.
    `known` is that of `ReplySampler.learn`.
    """
    ups = sum(row.label for row in votes)
    missing = len(votes) - 2 * ups
    if missing <= 0:
        return SampledRows(
            [], 0, 0, "No replies were sampled to learn from: no fewer votes are up than down."
        )
    with ReplySampler(source, {DEPLOYED: deployed} if deployed else {}, settings, report) as sampler:
        taste = sampler.learn(votes, known)
        if isinstance(taste, Abstention):
            return SampledRows([], 0, 0, f"No replies were sampled to learn from. {taste.reason}")
        waiting = {
            tuple(row.prompt_ids): row
            for row in reversed(votes)  # newest first
            if is_vote(row.example) and len(row.prompt_ids) <= sampler.longest_prompt
        }
        waiting = dict(list(waiting.items())[: settings.sampled_prompts])
        prompts, replies = len(waiting), 0
        least = least_probability(taste.quality.liked / taste.quality.votes)
        most = settings.max_repetition
        rows: list[TokenisedExample] = []
        for attempt in range(settings.sampled_replies):
            asked = list(waiting.values())
            # Seeds other than that of the gate, which samples replies of the same version.
            seed = settings.seed + 1 + attempt
            found = sampler.sample(
                [Prompt.of(row) for row in asked], DEPLOYED if deployed else None, seed=seed
            )
            replies += len(found)
            scores = taste.score(sampler.read(found, "sampled replies", log_probabilities=False))
            for row, reply, score in zip(asked, found, scores, strict=True):
                if score >= least and reply.text.strip() and not repeats_itself(reply.text, most):
                    rows.append(_liked(row, reply.text, reply.completion_ids))
                    del waiting[tuple(row.prompt_ids)]
            if not waiting or len(rows) >= missing:
                break
    reason = (
        f"{counted(len(rows), 'sampled reply', 'sampled replies')} of {replies} that people would like "
        f"(probability {least:.2f} or more), to {counted(prompts, 'prompt')}."
    )
    return SampledRows(rows, prompts, replies, reason)


def least_probability(liked: float) -> float:
    """P(liked) from which a reply is taken, where this share of the votes is up."""
    odds = max(1.0, BETTER * liked / (1 - liked))
    return odds / (1 + odds)


def keep_rows(file: Path, found: SampledRows) -> None:
    """Write the rows for a later attempt of the run, which must train on the same ones."""
    rows = [
        [row.example.message_id, row.example.completion[0]["content"], row.completion_ids]
        for row in found.rows
    ]
    counts = [found.prompts, found.replies, found.reason]
    write_atomically(file, json.dumps({"rows": rows, "counts": counts}), private=True)


def kept_rows(file: Path, votes: Sequence[TokenisedExample]) -> SampledRows | None:
    """The rows that an earlier attempt kept, if it did. `votes` are those that it sampled for."""
    if not file.exists():
        return None
    kept = json.loads(file.read_text())
    rated = {row.example.message_id: row for row in votes}
    rows = [_liked(rated[message_id], text, ids) for message_id, text, ids in kept["rows"]]
    return SampledRows(rows, *kept["counts"])


def _liked(row: TokenisedExample, text: str, ids: Sequence[int]) -> TokenisedExample:
    """A liked row with the prompt of a rated one. It names its vote, and no person."""
    example = replace(
        row.example,
        completion=[{"role": "assistant", "content": text}],
        label=True,
        source=SAMPLED,
        user_id="",
        tags=[],
        comment=None,
        correction=None,
        token_ids=list(ids),
    )
    return TokenisedExample(example, row.prompt_ids, list(ids))
