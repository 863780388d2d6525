"""The snapshot of examples a run learns from, frozen when the run first starts.

It has votes and, depending on the settings, corrections and signals.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlmodel import Session

from storage.chats.votes import latest_event_id
from storage.examples.duplicates import opening
from storage.examples.example import Example
from storage.examples.filters import is_brought
from storage.examples.newest_first import NewestExamples
from storage.privacy.releases import released_at
from storage.registry.model_versions import deployed_version
from storage.settings import Settings
from storage.settings.guard import guard_limits
from trainer.dataset.guard import Released, SetAside, guard
from trainer.dataset.selection import choose, is_vote


@dataclass(frozen=True)
class Snapshot:
    """The examples that the data policy chose up to a vote event and the guard let pass, with their hash.

    `deployed` is the name of the version deployed at that time. `left_out` counts votes by the policy's or
    the guard's reason; `set_aside` has the guard's.
    """

    event_id: int
    sha256: str
    examples: list[Example]
    deployed: str
    left_out: Mapping[str, int]
    set_aside: Sequence[SetAside] = ()

    @property
    def votes(self) -> list[Example]:
        """The examples that are votes. Only these count for readiness and for evaluation."""
        return [example for example in self.examples if is_vote(example)]

    @property
    def ups(self) -> int:
        """A vote on a whole chat is one; `downs` alike."""
        return self._number(True)

    @property
    def downs(self) -> int:
        return self._number(False)

    @property
    def voters(self) -> int:
        return len({example.user_id for example in self.votes})

    @property
    def keys(self) -> list[tuple[str, str]]:
        """(message id, user id) of each vote and signal, without repeats: a correction shares its vote's."""
        return list(dict.fromkeys((example.message_id, example.user_id) for example in self.examples))

    def _number(self, label: bool) -> int:
        return round(sum(example.share or 1 for example in self.votes if example.label == label))

    def to_dict(self, held_out: Iterable[str], *, continued_from: str | None = None) -> dict[str, Any]:
        """As JSON for the run's row. `continued_from` is the id of the version that training continues."""
        return {
            "event_id": self.event_id,
            "sha256": self.sha256,
            "counts": {"up": self.ups, "down": self.downs, "people": self.voters},
            "held_out_chats": sorted(held_out),
            "deployed": self.deployed,
            "continued_from": continued_from,
            "left_out": dict(self.left_out),
        }


def take_snapshot(
    session: Session,
    settings: Settings,
    *,
    moment: datetime,
    event_id: int | None = None,
    deployed: str | None = None,
) -> Snapshot:
    """Read the votes up to an event, and what else the settings train on, by the data policy as of `moment`.

    What the guard sets aside is not among the examples.
    `event_id` defaults to the latest event, and `deployed` to the version deployed now. A chat deleted since
    then is missing and changes the hash: withdrawn feedback is not trained on, and checkpoints of an earlier
    attempt that saw it no longer match.
    """
    event_id = latest_event_id(session) if event_id is None else event_id
    deployed = deployed or deployed_version(session).name
    feedback = NewestExamples(
        session,
        event_id,
        corrections=settings.train_on_corrections,
        signals=settings.train_on_signals,
        exclude=settings.exclude_sources,
    )
    chosen = choose(feedback, settings, moment=moment)
    found = guard(chosen.examples, guard_limits(settings), Released(*released_at(session, moment)))
    left_out = chosen.left_out + Counter(one.reason for one in found.set_aside)
    examples = [in_its_chat(example) for example in found.kept]
    return Snapshot(event_id, _digest(examples), examples, deployed, left_out, found.set_aside)


def in_its_chat(example: Example) -> Example:
    """Let an imported example's prompt decide its chat, so both sides of a pair are held out together."""
    if not is_brought(example.origin):
        return example
    return replace(example, chat_id=opening(example.prompt))


def _digest(examples: Iterable[Example]) -> str:
    """SHA-256 over canonical JSON, one line per example."""
    digest = hashlib.sha256()
    for example in examples:
        row = {
            "prompt": example.prompt,
            "completion": example.completion,
            "label": example.label,
            "message_id": example.message_id,
            "token_ids": example.token_ids,
        }
        line = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
