"""Finished two-turn evaluations of versions, which `thumbloop evaluate` leaves in the data directory."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

EVALUATIONS = "evaluations"  # in the data directory
# What may be missing of a version's replies and ratings.
FAULTS = {
    "no_reply": "turns without a reply",
    "cut": "replies that the token limit cut",
    "unparsable_ratings": "ratings that could not be read",
    "failed_ratings": "ratings that were not given",
}
REPORT, PICTURE = "report.json", "scores.png"


@dataclass(frozen=True)
class FinishedEvaluation:
    """The report of an evaluation, and its picture, which may be missing."""

    name: str
    finished_at: datetime
    report: dict[str, Any]
    picture: Path


def finished_evaluations(data_dir: Path) -> Iterator[FinishedEvaluation]:
    """Those in the data directory, the newest first. A file that holds no JSON object is none."""
    files = list((data_dir / EVALUATIONS).glob(f"*/{REPORT}"))
    for written, file in sorted(((file.stat().st_mtime, file) for file in files), reverse=True):
        report = read_report(file)
        if report:
            moment = datetime.fromtimestamp(written, UTC)
            yield FinishedEvaluation(file.parent.name, moment, report, file.with_name(PICTURE))


def read_report(file: Path) -> dict[str, Any]:
    """The report, or nothing where there is none."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
