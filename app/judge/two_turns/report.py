"""The report of a two-turn evaluation for machines, in a folder with the replies and their verdicts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.judge.journal import Journal
from app.judge.pool import write_lines
from app.judge.two_turns.evaluation import Evaluation
from app.judge.two_turns.plan import Plan
from app.judge.two_turns.scores import compare, count_faults, score
from app.judge.work import Progress
from storage.files.atomic import write_atomically
from storage.registry.evaluations import REPORT, read_report

REPLIES = "replies.jsonl"


async def evaluate_in(folder: Path, evaluation: Evaluation, progress: Progress) -> dict[str, Any]:
    """Ask what is missing in the folder, write replies and report there, and return the report.

    Raises Conflict and NotReady as `Journal` and `do_jobs` do.
    """
    with Journal(folder / REPORT, evaluation.plan.identity) as journal:
        lines = await evaluation.run(journal, progress)
        report = make_report(evaluation.plan, lines)
        write_lines(folder / REPLIES, lines)
        write_atomically(folder / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        journal.remove()
    return report


def make_report(plan: Plan, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The scores of each version: `first`, `second`, `average` and `categories`, with faults and baseline."""
    by_version: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        by_version.setdefault(line["version"], []).append(line)
    versions = []
    for name, own in by_version.items():
        found = {"version": name, **score(own), "faults": count_faults(own)}
        if plan.baseline not in (None, name):
            found["against_baseline"] = compare(own, by_version[plan.baseline])
        versions.append(found)
    judge, baseline = plan.identity["judge"]["name"], plan.baseline
    return {
        "judge": judge,
        "baseline": baseline,
        "questions": len(plan.questions),
        "versions": versions,
        "plan": plan.identity,
    }


def finished_report(folder: Path, plan: Plan) -> dict[str, Any] | None:
    """The report of this plan, if it is there already."""
    report = read_report(folder / REPORT)
    return report if report.get("plan") == plan.identity else None
