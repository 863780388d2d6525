"""Reads a sweep's data, votes or a file, and splits it once for all points, as a training run does."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.db.database import Database
from storage.examples.duplicates import digest
from storage.examples.pairs import pair_up
from storage.registry import model_versions
from storage.settings import Settings
from trainer.dataset.plan import TrainingPlan, plan_training
from trainer.dataset.snapshot import take_snapshot
from trainer.dataset.split import split_by_chat
from trainer.dataset.tokenise import TokenisedExample, rows_digest
from trainer.model.base_model import BaseModelSource
from trainer.offline.rows import read_rows


@dataclass(frozen=True)
class FileSource:
    """A file or folder of rated data; no database is needed."""

    path: Path
    max_rows: int | None = None
    skip_bad: bool = False


@dataclass(frozen=True)
class Votes:
    """The votes of an installation that a training run would read, up to a vote event."""

    database: Database


@dataclass(frozen=True)
class Pair:
    """A liked and a disliked reply to one prompt, with equal prompt ids."""

    up: TokenisedExample
    down: TokenisedExample


@dataclass(frozen=True)
class SweepRows:
    """Rows to train on and rows to measure on, from different chats; `pairs` are among the training rows.

    `origin` has what is needed to read the same rows again; `lines` describes them to people.
    """

    training: list[TokenisedExample]
    held_out: list[TokenisedExample]
    pairs: list[Pair]
    plan: TrainingPlan
    origin: dict[str, Any]
    lines: list[str]

    @property
    def sha256(self) -> str:
        """SHA-256 over the ids, labels, chats and weights of both sides."""
        both = rows_digest(self.training), rows_digest(self.held_out)
        return hashlib.sha256(" ".join(both).encode()).hexdigest()


def read_split(
    of: FileSource | Votes,
    tokenizer: Any,
    source: BaseModelSource,
    settings: Settings,
    *,
    origin: Mapping[str, Any] | None = None,
) -> SweepRows:
    """Read, tokenise and split. With the `origin` of an earlier split, later feedback is ignored.

    Raises InvalidInput unless there is a training row of each kind and at least one micro-batch.
    """
    if isinstance(of, FileSource):
        found = read_rows(of.path, skip_bad=of.skip_bad, max_rows=of.max_rows)
        lines, origin = found.lines(), {"file": of.path.name}
        rows = split_by_chat(tokenizer, found.examples, settings)
    else:
        as_of = origin or {}
        moment = datetime.fromisoformat(as_of["moment"]) if origin else datetime.now(UTC)
        with of.database.write() as session:
            model_versions.ensure_base(session, source.name)
        with of.database.read() as session:
            snapshot = take_snapshot(
                session,
                settings,
                moment=moment,
                event_id=as_of.get("votes_up_to"),
                deployed=as_of.get("deployed"),
            )
        lines = [f"Left out {n}: {reason}." for reason, n in snapshot.left_out.items()]
        origin = {
            "votes_up_to": snapshot.event_id,
            "moment": moment.isoformat(),
            "deployed": snapshot.deployed,
        }
        rows = split_by_chat(
            tokenizer, snapshot.examples, settings, moment=moment, on_policy=snapshot.deployed
        )
    plan = plan_training(rows.training, rows.dropped, settings, held_out=len(rows.held_out))
    plan.refuse_few_rows()
    lines += plan.lines()
    return SweepRows(rows.training, rows.held_out, find_pairs(rows.training), plan, origin, lines)


def find_pairs(rows: Sequence[TokenisedExample]) -> list[Pair]:
    """The pairs that an export of these rows would have, in its order (storage.examples.pairs)."""
    by_prompt: dict[bytes, tuple[dict[bytes, TokenisedExample], dict[bytes, TokenisedExample]]]
    by_prompt = defaultdict(lambda: ({}, {}))
    for row in rows:
        by_prompt[digest(row.example.prompt)][row.label].setdefault(digest(row.example.completion), row)
    pairs = [
        Pair(up, down)
        for downs, ups in by_prompt.values()
        for up, down in pair_up(
            [row for text, row in ups.items() if text not in downs],
            [row for text, row in downs.items() if text not in ups],
        )
    ]
    # A chat template may render the end of a prompt differently for each reply; such rows share no prompt.
    return [pair for pair in pairs if pair.up.prompt_ids == pair.down.prompt_ids]
