"""Exports the examples of a snapshot in the formats and shapes that other tools read.

Data streams from the database to bytes, one page at a time. The same snapshot and plan give the same bytes; a
manifest describes them. The chat template is passed in, so no tokenizer is loaded here.
"""

import hashlib
import json
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

from sqlmodel import Session

from storage.chats.tools import has_tools
from storage.chats.votes import latest_event_id
from storage.errors import Conflict, InvalidInput
from storage.examples.duplicates import Selection
from storage.examples.example import Example, Examples
from storage.examples.filters import resolve
from storage.examples.pairs import iter_pairs
from storage.examples.queries import has_reasoning, has_shares, has_tools_before
from storage.exports.dataset_card import dataset_card
from storage.exports.encoders import ENCODERS, MOST_ROWS
from storage.exports.plan import ExportPlan
from storage.exports.redaction import Redaction, Redactor
from storage.exports.shapes import (
    PAIRED,
    REASONING,
    WITH_TOOLS,
    ChatTemplate,
    Kind,
    Row,
    Shaper,
    columns_of,
    filled,
)
from storage.files.atomic import sync, write_atomically, written_aside
from storage.files.disk_full import is_full, no_room

# An exported file's manifest has the file's name with this suffix.
MANIFEST_END = ".manifest.json"
# What some examples need columns for.
NEEDS: dict[str, Callable[[Example], bool]] = {
    "reasoned": lambda one: any(message.get(REASONING) for message in (*one.prompt, *one.completion)),
    "tooled": lambda one: has_tools(one.prompt),
    "shared": lambda one: (one.share or 1) < 1,
}


class Export:
    """One export: iterate `chunks` once; then `manifest` is complete.

    `snapshot_event_id` defaults to all votes so far. The constructor raises InvalidInput or NotFound for what
    cannot be exported, while a web server can still answer with an error.
    """

    def __init__(
        self,
        session: Session,
        plan: ExportPlan,
        *,
        salt: bytes,
        snapshot_event_id: int | None = None,
        template: ChatTemplate | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        assert (redactor is not None) == plan.redact
        self.plan = plan
        self.snapshot_event_id = _known_snapshot(session, snapshot_event_id)
        self.rows = 0
        if plan.shape == "kto-text" and template is None:
            raise InvalidInput("The shape kto-text needs a model's chat template.", field="shape")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}", plan.licence):
            raise InvalidInput(
                f"The licence {plan.licence!r} is not a name such as cc0-1.0 or apache-2.0.", field="licence"
            )
        if plan.shape in PAIRED and plan.signals:
            raise InvalidInput("Pairs are made of votes; leave out signals.", field="signals")
        wanted = resolve(session, plan.filter, salt=salt)
        self._filters = wanted.describe(salt)
        self._examples = Examples(
            session, self.snapshot_event_id, wanted, corrections=plan.corrections, token_ids=False
        )

        def all_examples() -> Iterator[Example]:
            yield from self._examples.iterate()
            yield from self._examples.signals(plan.signals)

        self._selection = Selection(
            all_examples, duplicates=plan.duplicates, contradictions=plan.contradictions
        )
        self._shaper = Shaper(salt, template)
        # What the rows may need columns for: a look at the store is cheap, and mostly finds nothing.
        finders = {"reasoned": has_reasoning, "tooled": has_tools_before, "shared": has_shares}
        self._may_need = {name for name, find in finders.items() if find(session, self.snapshot_event_id)}
        self._columns: dict[str, Kind] = {}
        self._redaction = Redaction(redactor) if redactor is not None else None
        self._left_out: Counter[str] = Counter()
        self._votes: dict[str, Counter[bool]] = {}  # by version; a part of a vote counts as its share
        self._labels: Counter[bool] = Counter()
        self._largest_event_id = 0
        self._digest, self._bytes = hashlib.sha256(), 0

    def chunks(self, most_rows: int = MOST_ROWS) -> Iterator[bytes]:
        """The bytes of the file; for the format datasets, of the Parquet file in the folder.

        A chunk holds at most that many rows.
        """
        self._digest, self._bytes = hashlib.sha256(), 0
        needed = self._needed()
        self._columns = columns_of(self.plan.shape, **{name: name in needed for name in NEEDS})
        for chunk in ENCODERS[self.plan.format](self._rows(), self._columns, most_rows):
            self._digest.update(chunk)
            self._bytes += len(chunk)
            yield chunk

    def count(self, most: int) -> int:
        """How many rows there are, `most` at most, without making them; a chat template may refuse some."""
        return sum(1 for _ in islice(self._grouped(), most))

    def manifest(self) -> dict[str, Any]:
        """The description of the export; complete once `chunks` has been iterated."""
        repeats = self._selection
        versions = sorted(self._votes.items(), key=lambda item: (len(item[0]), item[0]))
        return {
            "format": self.plan.format,
            "shape": self.plan.shape,
            "rows": self.rows,
            "votes": _up_and_down(sum((votes for _, votes in versions), Counter())),
            "labels": _up_and_down(self._labels),
            "versions": {name: _up_and_down(votes) for name, votes in versions},
            "snapshot_event_id": self.snapshot_event_id,
            "largest_event_id": self._largest_event_id,
            "filters": self._filters,
            "corrections": self.plan.corrections,
            "signals": self.plan.signals,
            "duplicates": self.plan.duplicates,
            "duplicate_votes": repeats.duplicate_votes,
            "contradictions": self.plan.contradictions,
            "contradictory_texts": repeats.contradictory_texts,
            "contradictory_votes": repeats.contradictory_votes,
            "contradictory_votes_dropped": repeats.contradictions_dropped,
            "left_out": dict(sorted(self._left_out.items())),
            "bos": self._shaper.bos if self.plan.shape == "kto-text" else "",
            "redaction": self._redaction.about() if self._redaction is not None else None,
            "licence": self.plan.licence,
            "sha256": self._digest.hexdigest(),
            "bytes": self._bytes,
            "software": {"name": "thumbloop", "version": _software_version()},
        }

    def _rows(self) -> Iterator[Row]:
        for row, examples in self._shaped():
            for example in examples:
                votes = self._votes.setdefault(example.model_version or "", Counter())
                votes[example.label] += example.share or 1  # type: ignore[assignment]
                self._labels[example.label] += 1
                self._largest_event_id = max(self._largest_event_id, example.event_id)
            self.rows += 1
            yield filled(row, self._columns)

    def _needed(self) -> set[str]:
        """What the exported rows need columns for, so that the columns depend on nothing but the rows.

        If the store has some of it, the rows are read once more, up to the first with each.
        """
        found: set[str] = set()
        if self._may_need:
            for examples in self._grouped():
                found |= {name for name in self._may_need if any(map(NEEDS[name], examples))}
                if found == self._may_need:
                    break
        return found

    def _shaped(self) -> Iterator[tuple[Row, tuple[Example, ...]]]:
        for examples in self._grouped():
            examples = self._redacted(*examples)
            try:
                yield self._shaper.row(self.plan.shape, *examples), examples
            except InvalidInput:
                self._left_out["refused by the chat template"] += 1

    def _grouped(self) -> Iterator[tuple[Example, ...]]:
        """The examples of each row: one, or a reply voted up and one voted down."""
        if self.plan.shape in PAIRED:
            yield from iter_pairs(self._selected(), self._examples.at)
        else:
            yield from ((example,) for example in self._selected())

    def _redacted(self, *examples: Example) -> tuple[Example, ...]:
        return self._redaction.of(*examples) if self._redaction is not None else examples

    def _selected(self) -> Iterator[Example]:
        self._left_out.clear()
        for example in self._selection:
            if self.plan.shape not in WITH_TOOLS and has_tools(example.prompt):
                self._left_out[f"tools, which the shape {self.plan.shape} does not hold"] += 1
            else:
                yield example
        self._left_out += self._examples.left_out


def export_to(target: Path, export: Export) -> dict[str, Any]:
    """Write the file with `<name>.manifest.json` next to it, or the `datasets` folder; returns the manifest.

    The final name appears only once all of it is on disk; only the owner may read it. Raises Conflict for a
    folder that is not empty, InvalidInput if the target cannot be written, NotReady if the disk is full.
    """
    with _write_errors(target):
        if export.plan.format == "datasets":
            _write_folder(target, export)
        else:
            _write_file(target, export)
    return export.manifest()


def _write_file(target: Path, export: Export) -> None:
    manifest = target.with_name(target.name + MANIFEST_END)
    for path in (target, manifest):
        if path.is_dir():
            raise InvalidInput(f"{path} is a folder; name a file in it.", field="file")
    # Two files cannot be renamed at once. The old manifest is removed first and the new one renamed last, so
    # a crash can leave a complete file without a manifest, never one with the manifest of another file.
    with written_aside(manifest, private=True) as new_manifest, written_aside(target, private=True) as part:
        with part.open("wb") as file:
            file.writelines(export.chunks())
        new_manifest.write_text(_to_json(export.manifest()))
        manifest.unlink(missing_ok=True)
        sync(manifest.parent)


def _write_folder(target: Path, export: Export) -> None:
    if target.is_dir() and any(target.iterdir()):
        raise Conflict(f"The folder {target} is not empty; remove it or name another.", field="file")
    with written_aside(target, folder=True, private=True) as folder:
        (folder / "data").mkdir()
        write_atomically(folder / "data" / "train.parquet", export.chunks(), private=True)
        manifest = export.manifest()
        write_atomically(folder / "README.md", dataset_card(manifest), private=True)
        write_atomically(folder / "manifest.json", _to_json(manifest), private=True)


def remove_exports(folder: Path) -> list[Path]:
    """Remove the exports in a folder, recognised by their manifests; returns their paths."""
    removed = []
    for manifest in [*folder.rglob(f"*{MANIFEST_END}"), *folder.rglob("manifest.json")]:
        in_folder = manifest.name == "manifest.json"
        export = manifest.parent if in_folder else Path(str(manifest).removesuffix(MANIFEST_END))
        if export == folder or not _is_manifest(manifest):
            continue
        if export.is_dir():
            shutil.rmtree(export)
        else:
            export.unlink(missing_ok=True)
            manifest.unlink(missing_ok=True)
        removed.append(export)
    return removed


def _is_manifest(file: Path) -> bool:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"snapshot_event_id", "sha256", "software"} <= found.keys()


@contextmanager
def _write_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise no_room(target, error.strerror) from error
        raise InvalidInput(f"{target} cannot be written: {error.strerror}.", field="file") from error
    except sqlite3.OperationalError as error:  # a temporary file of storage.examples
        raise no_room(target, error) from error


def _known_snapshot(session: Session, event_id: int | None) -> int:
    latest = latest_event_id(session)
    if event_id is None:
        return latest
    if not 0 <= event_id <= latest:
        raise InvalidInput(
            f"There is no snapshot {event_id}; the latest vote event is {latest}.", field="snapshot"
        )
    return event_id


def _up_and_down(votes: Counter[bool]) -> dict[str, int]:
    return {"up": round(votes[True]), "down": round(votes[False])}


def _to_json(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, ensure_ascii=False, indent=2) + "\n"


def _software_version() -> str:
    try:
        return version("thumbloop")
    except PackageNotFoundError:  # a checkout that was not installed
        return "unknown"
