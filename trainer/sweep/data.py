"""Reads a sweep's data, votes or a file, and splits it once for all points, as a training run does."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.db.database import Database
from storage.errors import InvalidInput
from storage.examples.example import Example
from storage.imports.formats import NO_OPTIONS, ImportOptions
from storage.registry import model_versions
from storage.settings import Settings
from trainer.dataset.plan import TrainingPlan, plan_training
from trainer.dataset.snapshot import take_snapshot
from trainer.dataset.split import split_by_chat
from trainer.dataset.tokenise import TokenisedExample, rows_digest
from trainer.model.base_model import BaseModelSource
from trainer.offline.rows import read_rows
from trainer.sweep.dpo import Pair, find_pairs
from trainer.text import counted


@dataclass(frozen=True)
class FileSource:
    """A file or folder of rated data; no database is needed."""

    path: Path
    max_rows: int | None = None
    skip_bad: bool = False
    options: ImportOptions = NO_OPTIONS


@dataclass(frozen=True)
class Votes:
    """The votes of an installation that a training run would read, up to a vote event."""

    database: Database


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
    moment, deployed = datetime.now(UTC), ""
    lines: list[str] = []
    if isinstance(of, FileSource):
        found = read_rows(of.path, options=of.options, skip_bad=of.skip_bad, max_rows=of.max_rows)
        examples: list[Example] = found.examples
        lines += found.lines()
        origin = {"file": of.path.name}
    else:
        as_of = origin or {}
        if origin is not None:
            moment = datetime.fromisoformat(origin["moment"])
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
        examples, deployed = snapshot.examples, snapshot.deployed
        lines += [f"The data policy left out {n}: {reason}." for reason, n in snapshot.left_out.items()]
        origin = {"votes_up_to": snapshot.event_id, "moment": moment.isoformat(), "deployed": deployed}
    rows = split_by_chat(
        tokenizer,
        examples,
        settings,
        moment=moment if isinstance(of, Votes) else None,
        on_policy=deployed,
    )
    training, held_out = rows.training, rows.held_out
    plan = plan_training(training, rows.dropped, settings, held_out=len(held_out))
    if len(training) < settings.batch_size:
        raise InvalidInput(
            f"{counted(len(training), 'row')} to train on, fewer than a micro-batch of "
            f"{settings.batch_size}, on which KTO estimates its KL term; add votes, or lower "
            f"THUMBLOOP_BATCH_SIZE.",
            field="batch_size",
        )
    return SweepRows(training, held_out, find_pairs(training), plan, origin, [*lines, *plan.lines()])
