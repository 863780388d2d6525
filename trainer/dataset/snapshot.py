"""What a run learns from: votes, and by setting corrections and signals; frozen when it first starts."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlmodel import Session

from storage.chats.votes import latest_event_id
from storage.examples.duplicates import opening
from storage.examples.example import Example
from storage.examples.filters import is_of_source
from storage.examples.newest_first import NewestExamples
from storage.registry.model_versions import deployed_version
from storage.settings import Settings
from trainer.dataset.selection import choose, is_vote


@dataclass(frozen=True)
class Snapshot:
    """The examples that the data policy chose up to a vote event, and a hash of what they say.

    `deployed` is the version that was deployed then. `left_out` counts votes by the policy's reason.
    """

    event_id: int
    sha256: str
    examples: list[Example]
    deployed: str
    left_out: Mapping[str, int]

    @property
    def votes(self) -> list[Example]:
        """The examples that are votes themselves: they alone make a run ready and judge its result."""
        return [example for example in self.examples if is_vote(example)]

    @property
    def ups(self) -> int:
        return sum(example.label for example in self.votes)

    @property
    def downs(self) -> int:
        return len(self.votes) - self.ups

    @property
    def voters(self) -> int:
        return len({example.user_id for example in self.votes})

    @property
    def keys(self) -> list[tuple[str, str]]:
        """(reply, person) of each vote, once, also where it gave a correction; of a signal, too."""
        return list(dict.fromkeys((example.message_id, example.user_id) for example in self.examples))

    def to_dict(self, held_out: Iterable[str], *, continued_from: str | None = None) -> dict[str, Any]:
        """For the run's row. `continued_from` is the id of the version whose adapter training begins with."""
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
    """The votes up to an event, and what else the settings train on, by the data policy as of a moment.

    Without an event these are the votes up to now; without `deployed`, it is the version deployed now. A
    chat that was deleted since is missing and changes the hash: nobody is trained on what they took
    back, and an earlier attempt's checkpoints, which saw it, do not fit any more.
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
    examples = [in_its_chat(example) for example in chosen.examples]
    return Snapshot(event_id, _digest(examples), examples, deployed, chosen.left_out)


def in_its_chat(example: Example) -> Example:
    """Both sides of an imported pair are chats of their own; neither is held out without the other."""
    if not is_of_source(example.origin, "import"):
        return example
    return replace(example, chat_id=opening(example.prompt))


def _digest(examples: Iterable[Example]) -> str:
    """SHA-256 over canonical JSON, one line an example."""
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
