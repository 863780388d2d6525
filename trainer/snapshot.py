"""Which votes a run learns from: frozen when it first starts, and the same when it is resumed."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from storage.examples import Example, iter_examples
from storage.tables import TrainingRun
from storage.votes import latest_event_id


@dataclass(frozen=True)
class Snapshot:
    """The examples up to a vote event, and a hash of what they say."""

    event_id: int
    sha256: str
    examples: list[Example]

    @property
    def ups(self) -> int:
        return sum(example.label for example in self.examples)

    @property
    def downs(self) -> int:
        return len(self.examples) - self.ups

    @property
    def voters(self) -> int:
        return len({example.user_id for example in self.examples})

    def to_dict(self, held_out: Iterable[str]) -> dict[str, Any]:
        """For the run's row. The votes name people, so this stays in the database."""
        return {
            "event_id": self.event_id,
            "sha256": self.sha256,
            "counts": {"up": self.ups, "down": self.downs, "people": self.voters},
            "votes": [[example.message_id, example.user_id] for example in self.examples],
            "held_out_chats": sorted(held_out),
        }


def take_snapshot(session: Session, run: TrainingRun) -> Snapshot:
    """The run's frozen votes, or those up to now.

    A chat that was deleted since is missing and changes the hash: nobody is trained on what they took
    back, and an earlier attempt's checkpoints, which saw it, do not fit any more.
    """
    event_id = run.snapshot_event_id if run.snapshot_event_id is not None else latest_event_id(session)
    examples = list(iter_examples(session, event_id))
    return Snapshot(event_id, _digest(examples), examples)


def by_chat(examples: Sequence[Any]) -> dict[str, tuple[int, int]]:
    """(ups, downs) of each chat."""
    counts = Counter((example.chat_id, example.label) for example in examples)
    return {chat: (counts[chat, True], counts[chat, False]) for chat, _ in counts}


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
