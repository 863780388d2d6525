"""The folder of a sweep: its plan, one file for each point, and what follows from them.

    sweep.json          the plan: rows, split, settings, points; never changed
    points/NAME.json    what was measured of a point; written once it is known, whole or not at all
    results.csv         all points, best first
    plot.png            where matplotlib is installed

A point without its file is one that is still to be made. Knows no model.
"""

import csv
import fcntl
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from storage.db.ids import is_id, new_id
from storage.errors import Conflict, NotFound, NotReady
from storage.files.atomic import sync
from trainer.gate.decision import lack_of_evidence
from trainer.sweep.grid import (
    LOSSES,
    PAIRED,
    Loss,
    Point,
    Result,
    is_above_chance,
    rank,
    winner,
)

SWEEPS = "sweeps"
PLAN, TABLE, PLOT = "sweep.json", "results.csv", "plot.png"
# Of a result; the seconds last, because they alone differ from one making to the next.
COLUMNS = [field.name for field in fields(Result) if field.name not in ("point", "diverged", "seconds")]


@dataclass(frozen=True)
class Sweep:
    """A sweep as far as it is done."""

    name: str
    plan: Mapping[str, Any]
    ranked: list[Result]
    missing: list[Point]

    @property
    def winner(self) -> Result | None:
        return winner(self.ranked)

    def doubts_of(self, best: Result) -> str | None:
        """Why it decides nothing that this is the best, if so."""
        held_out = self.plan["held_out"]
        lack = lack_of_evidence(held_out["up"], held_out["down"], needed=self.plan["gate_min_votes"])
        if lack is None and not is_above_chance(best):
            lack = (
                f"the best AUC, {best.auc:.3f} ± {best.auc_standard_error:.3f}, is not above 0.5 by a "
                f"standard error, so that no point was seen to tell liked replies from disliked ones; "
                f"collect more votes"
            )
        return lack

    def verdict(self) -> str:
        """A sentence or two on what came of it."""
        done = len(self.ranked)
        if not done:
            return f"None of {len(self.missing)} points has been made."
        of = f"{done} of {done + len(self.missing)} points"
        if self.winner is None:
            held_out = self.plan["held_out"]
            if not (held_out["up"] and held_out["down"]):
                return "Nothing can be ranked: the held-out votes are not of both kinds; collect more."
            return (
                f"None of the {of} that were made can win: each diverged or made liked replies less likely."
            )
        told = f"Best of {of}: {self.winner.point.name}."
        doubts = self.doubts_of(self.winner)
        return f"{told} Not enough evidence: {doubts}." if doubts else told


class SweepFolder:
    """Raises Conflict for a folder that holds something else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.points = self.folder / "points"
        self.plot = self.folder / PLOT
        self.plan: dict[str, Any] | None = None
        try:
            self.plan = json.loads((self.folder / PLAN).read_text())
        except NotADirectoryError as error:
            raise Conflict(f"{folder} is a file; name a folder with --out.", field="out") from error
        except (FileNotFoundError, ValueError):
            if self.folder.is_dir() and {path.name for path in self.folder.iterdir()} - {"points"}:
                raise Conflict(
                    f"{folder} holds something that is no sweep; name a new or empty folder with --out.",
                    field="out",
                ) from None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes out. Raises Conflict if one is at it, NotReady if nothing can be written."""
        try:
            self.points.mkdir(parents=True, exist_ok=True)
            lock = (self.points / "lock").open("w")
        except OSError as error:
            raise NotReady(f"{self.folder} cannot be written: {error.strerror}.", field="out") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(f"Another process is at the sweep in {self.folder}; wait for it.") from error
            yield

    def begin(self, plan: Mapping[str, Any]) -> None:
        self.plan = json.loads(json.dumps(plan))
        _write(self.folder / PLAN, json.dumps(plan, indent=2) + "\n")

    def keep(self, result: Result) -> None:
        """Write a point down, and the table anew."""
        text = json.dumps(result.to_dict(), indent=2, allow_nan=False)
        _write(self.points / f"{result.point.name}.json", text + "\n")
        _write(self.folder / TABLE, to_csv(self.read()))

    def read(self) -> Sweep:
        """What there is by now. Raises NotFound where no sweep was begun."""
        if self.plan is None:
            raise NotFound(f"There is no sweep in {self.folder}.")
        results, missing = [], []
        for values in self.plan["points"]:
            point = Point(**values)
            try:
                results.append(Result.from_dict(json.loads((self.points / f"{point.name}.json").read_text())))
            except FileNotFoundError:
                missing.append(point)
        return Sweep(self.folder.name, self.plan, rank(results), missing)


def all_sweeps(data_dir: Path) -> list[SweepFolder]:
    """Those of an installation, newest first."""
    folders = [folder for folder in (data_dir / SWEEPS).glob("*/") if is_id(folder.name)]
    found = []
    for folder in sorted(folders, reverse=True):
        with suppress(Conflict):  # somebody keeps something else there
            found.append(SweepFolder(folder))
    return [folder for folder in found if folder.plan is not None]


def new_folder(data_dir: Path) -> Path:
    """Where the next sweep of an installation goes; not made yet."""
    (data_dir / SWEEPS).mkdir(mode=0o700, parents=True, exist_ok=True)
    return data_dir / SWEEPS / new_id()


def to_csv(sweep: Sweep) -> str:
    """All points, best first, then those that are missing."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["rank", *(f.name for f in fields(Point)), "state", *COLUMNS, "reason", "seconds"])
    for number, result in enumerate(sweep.ranked, 1):
        values = result.to_dict()
        place = number if result.is_sound else ""
        figures = [values[name] for name in COLUMNS]
        writer.writerow(
            [place, *values["point"].values(), state_of(result), *figures, result.diverged, result.seconds]
        )
    for point in sweep.missing:
        writer.writerow(["", *asdict(point).values(), "missing"])
    return file.getvalue()


def state_of(result: Result) -> str:
    """measured, diverged, or fell: liked replies became less likely."""
    return "diverged" if result.diverged else "fell" if result.fell else "measured"


def best_for_runs(sweep: Sweep) -> Result | None:
    """The best point of a loss that training runs have; they train on votes, not on pairs."""
    unpaired: list[Loss] = [loss for loss in LOSSES if loss not in PAIRED]
    return winner(sweep.ranked, losses=unpaired)


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text)
    sync(aside)
    aside.replace(path)
    sync(path.parent)
