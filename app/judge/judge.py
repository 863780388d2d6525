"""A judge rates each reply of a pool, or compares the replies in pairs: `thumbloop judge`.

A rated reply has, besides what the pool says of it,

    "ratings": [{"rating", "reason"} or {"unparsable": text} or {"error"}], "rating": their mean or null

and a compared conversation has `comparisons`, with the places of two replies and who won in both orders:

    {"left": 0, "right": 2, "winner": 0, 2 or null for a tie, "won": ["first", "second"], "reasons": […]}

`judge` and `scale` say whose verdicts these are, and on which scale (0 to 1 for comparisons: the share won).
"""

import hashlib
import json
import random
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from app.judge.journal import Journal
from app.judge.pool import read_pool, write_lines
from app.judge.report import judge_report
from app.judge.work import Job, Progress, do_jobs
from storage.files.atomic import write_atomically
from storage.registry.evaluations import read_report
from trainer.judge.asking import OTHER_SIDE, ask_judge
from trainer.judge.rubric import Rubric, read_winner, winner_schema
from trainer.judge.servers import Server


@dataclass(frozen=True)
class JudgePlan:
    """How a pool is judged: each reply `votes` times, or each pair of replies in both orders.

    The seed settles in which order things are asked.
    """

    rubric: Rubric
    pairwise: bool = False
    votes: int = 1
    seed: int = 0

    def identity(self, judge: Server, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "judge": judge.spec.identity,
            "rubric": self.rubric.text,
            "pairwise": self.pairwise,
            "votes": self.votes,
            "seed": self.seed,
            "pool": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        }


def report_file(out: Path) -> Path:
    """Where the report of a judged pool is."""
    return out.with_suffix(".report.json")


async def judge_pool(
    plan: JudgePlan, pool: Path, judge: Server, out: Path, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Ask the judge about everything in the pool; writes and returns the lines of `out`, and the report.

    The verdicts so far are in a file beside it, so the same call continues after a kill, and after the end
    it reads the result again. Raises Conflict and NotReady as `Journal` and `do_jobs` do.
    """
    rows = read_pool(pool)
    identity = plan.identity(judge, rows)
    if out.exists() and (known := read_report(report_file(out))).get("plan") == identity:
        return read_pool(out), known
    jobs = [job for row in rows for job in (_pair_jobs if plan.pairwise else _rating_jobs)(plan, row, judge)]
    random.Random(plan.seed).shuffle(jobs)
    with Journal(out, identity) as journal:
        await do_jobs(jobs, journal, "comparisons" if plan.pairwise else "ratings", progress)
        judged = [_judged(plan, row, judge.spec.name, journal.answers) for row in rows]
        report = {**judge_report(judged, judge, seed=plan.seed), "plan": identity}
        # Before the result, which is finished only with a report.
        write_atomically(report_file(out), json.dumps(report, indent=2) + "\n")
        write_lines(out, judged)
        journal.remove()
    return judged, report


def comparable(row: Mapping[str, Any]) -> list[int]:
    """The places of the replies that have a text."""
    return [place for place, reply in enumerate(row["replies"]) if reply.get("content")]


def _rating_jobs(plan: JudgePlan, row: Mapping[str, Any], judge: Server) -> list[Job]:
    def job(place: int, vote: int) -> Job:
        text = row["replies"][place]["content"]
        question = plan.rubric.rating_question(row["prompt"], text, row.get("reference"))

        def ask() -> Awaitable[dict[str, Any]]:
            schema = plan.rubric.rating_schema()
            return ask_judge(judge, question, schema, plan.rubric.read_rating, plan.seed + vote)

        return Job(f"{row['id']} {place} {vote}", judge, ask)

    return [job(place, vote) for place in comparable(row) for vote in range(plan.votes)]


def _pair_jobs(plan: JudgePlan, row: Mapping[str, Any], judge: Server) -> list[Job]:
    def job(first: int, second: int, vote: int) -> Job:
        texts = [row["replies"][place]["content"] for place in (first, second)]
        question = plan.rubric.pair_question(row["prompt"], *texts)

        def ask() -> Awaitable[dict[str, Any]]:
            return ask_judge(judge, question, winner_schema(), read_winner, plan.seed + vote)

        return Job(f"{row['id']} {first} {second} {vote}", judge, ask)

    pairs = [(a, b) for pair in combinations(comparable(row), 2) for a, b in (pair, pair[::-1])]
    return [job(a, b, vote) for a, b in pairs for vote in range(plan.votes)]


def _judged(
    plan: JudgePlan, row: dict[str, Any], judge: str, answers: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    if plan.pairwise:
        found = [
            comparison
            for left, right in combinations(comparable(row), 2)
            for vote in range(plan.votes)
            for comparison in [_comparison(row["id"], left, right, vote, answers)]
        ]
        return {**row, "judge": judge, "scale": [0, 1], "comparisons": found}
    replies = []
    for place, reply in enumerate(row["replies"]):
        keys = [f"{row['id']} {place} {vote}" for vote in range(plan.votes)]
        ratings = [_as_rating(answers[key]) for key in keys if key in answers]
        known = [one["rating"] for one in ratings if "rating" in one]
        replies.append({**reply, "ratings": ratings, "rating": fmean(known) if known else None})
    return {**row, "judge": judge, "scale": list(plan.rubric.scale), "replies": replies}


def _as_rating(answer: Mapping[str, Any]) -> dict[str, Any]:
    if "verdict" not in answer:
        return dict(answer)
    return {"rating": answer["verdict"], "reason": answer["reason"]}


def _comparison(
    row_id: str, left: int, right: int, vote: int, answers: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """A win only where both orders agree; where one could not be read, there is no comparison."""
    orders = [answers[f"{row_id} {left} {right} {vote}"], answers[f"{row_id} {right} {left} {vote}"]]
    found: dict[str, Any] = {"left": left, "right": right}
    faults = [one for one in orders if "verdict" not in one]
    if faults:
        return {**found, "faults": faults}
    there, back = orders[0]["verdict"], OTHER_SIDE[orders[1]["verdict"]]
    winner = {"left": left, "right": right}.get(there) if there == back else None
    shown = [
        "first" if one["verdict"] == "left" else "second" if one["verdict"] == "right" else "tie"
        for one in orders
    ]
    return {**found, "winner": winner, "won": shown, "reasons": [one["reason"] for one in orders]}
