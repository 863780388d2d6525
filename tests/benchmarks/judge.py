"""What `thumbloop pool` and `judge` add to the time that the servers take: 200 conversations, four models.

    python -m tests.benchmarks.judge

Models and judge, in a process of their own, answer after 50 ms, eight at a time each. Prints JSON:
`overhead_ms` is the time of a call beyond what the servers took, were they asked without a pause.
"""

import asyncio
import json
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from app.judge.conversations import Conversation
from app.judge.judge import JudgePlan, judge_pool
from app.judge.pool import PoolPlan, fill_pool
from tests.support.scripted_models import Script, asked, prefers_short
from trainer.judge.rubric import read_rubric
from trainer.judge.servers import Server
from trainer.judge.specs import parse_server

CONVERSATIONS, MODELS, AT_ONCE, SECONDS = 200, 4, 8, 0.05


def _quiet(_progress: dict[str, Any]) -> None:
    pass


async def _run(url: str, folder: Path) -> dict[str, float]:
    asked_about = [
        Conversation([{"role": "user", "content": f"Question {n}?"}]) for n in range(CONVERSATIONS)
    ]
    models = [Server(parse_server(f"m{n}={url},m{n},at_once={AT_ONCE}")) for n in range(MODELS)]
    judge = Server(parse_server(f"j={url},judge,at_once={AT_ONCE}"))
    began = time.perf_counter()
    await fill_pool(PoolPlan(asked_about), models, folder / "pool.jsonl", _quiet)
    filled = time.perf_counter()
    plan = JudgePlan(read_rubric("overall"))
    await judge_pool(plan, folder / "pool.jsonl", judge, folder / "judged.jsonl", _quiet)
    judged = time.perf_counter()
    for server in (*models, judge):
        async with server:
            pass
    # The models are asked at the same time, the judge alone.
    pool_least = CONVERSATIONS / AT_ONCE * SECONDS
    judge_least = CONVERSATIONS * MODELS / AT_ONCE * SECONDS
    calls = CONVERSATIONS * MODELS
    return {
        "pool_seconds": filled - began,
        "pool_overhead_ms": 1000 * (filled - began - pool_least) / calls,
        "judge_seconds": judged - filled,
        "judge_overhead_ms": 1000 * (judged - filled - judge_least) / calls,
    }


def _serve(told: Connection) -> None:
    answers = {f"m{n}": lambda body: f"Yes: {asked(body)}" for n in range(MODELS)}
    with Script({**answers, "judge": prefers_short}, seconds=SECONDS).served() as url:
        told.send(url)
        told.recv()


def main() -> None:
    ours, theirs = multiprocessing.Pipe()
    servers = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,))
    servers.start()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_run(ours.recv(), Path(folder)))
    ours.send("done")
    servers.join()
    print(json.dumps({name: round(value, 2) for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
