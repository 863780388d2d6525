"""Asks a judge for a verdict, and whether it prefers one version's replies to another's."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.judge.rubric import ASK_AGAIN, Rubric, Verdict, read_rubric, read_winner, winner_schema
from trainer.judge.servers import Message, NoAnswer, Server
from trainer.judge.specs import parse_server

OTHER_SIDE = {"left": "right", "right": "left", "tie": "tie"}
POINTS = {"left": 1.0, "tie": 0.5, "right": 0.0}


async def ask_judge(
    judge: Server,
    question: str,
    schema: dict[str, Any],
    read: Callable[[str], Verdict | None],
    seed: int | None = None,
) -> dict[str, Any]:
    """The verdict, or the text that holds none, even after the judge was asked a second time.

    Raises NoAnswer.
    """
    asked = [{"role": "user", "content": question}]
    answer = await judge.ask(asked, schema=schema, seed=seed)
    verdict = read(answer.text)
    if verdict is None:
        judge.used.faults["unreadable verdict"] += 1
        again = [
            *asked,
            {"role": "assistant", "content": answer.text},
            {"role": "user", "content": ASK_AGAIN},
        ]
        answer = await judge.ask(again, schema=schema, seed=seed)
        verdict = read(answer.text)
    if verdict is None:
        judge.used.faults["unreadable verdict"] += 1
        return {"unparsable": answer.text}
    return {"verdict": verdict.value, "reason": verdict.reason}


@dataclass(frozen=True)
class Preference:
    """What a judge says of two versions' replies to the same prompts.

    `points` has a value for each prompt that was judged: 1 where the new reply won in both orders, 0 where
    the old one did, ½ for a tie. `failed` prompts got no answer that could be read.
    """

    judge: str
    points: list[float] = field(default_factory=list)
    failed: int = 0

    def to_dict(self) -> dict[str, Any]:
        counts = {
            name: self.points.count(value) for name, value in (("won", 1.0), ("ties", 0.5), ("lost", 0.0))
        }
        return {"judge": self.judge, **counts, "failed": self.failed}


def ask_preference(
    server: str,
    prompts: Sequence[str],
    new: Sequence[str],
    old: Sequence[str],
    progress: Callable[[int], None] = lambda _done: None,
) -> Preference:
    """Compare the replies to each prompt in both orders; equal ones tie, without asking.

    `server` is NAME=URL,KEY,MODEL. A judge that is away leaves every prompt failed. Raises InvalidInput.
    """
    return asyncio.run(_compare_all(parse_server(server, "judge"), prompts, new, old, progress))


async def _compare_all(
    spec: Any,
    prompts: Sequence[str],
    new: Sequence[str],
    old: Sequence[str],
    progress: Callable[[int], None],
) -> Preference:
    rubric, room = read_rubric("pair"), asyncio.Semaphore(spec.at_once)
    found = Preference(spec.name)
    failed = done = 0

    async def compare(judge: Server, prompt: str, ours: str, theirs: str) -> float | None:
        async with room:
            return await _points(judge, rubric, [{"role": "user", "content": prompt}], ours, theirs)

    async with Server(spec) as judge:
        rows = zip(prompts, new, old, strict=True)
        for one in asyncio.as_completed([compare(judge, *row) for row in rows]):
            points = await one
            done += 1
            progress(done)
            if points is None:
                failed += 1
            else:
                found.points.append(points)
    return Preference(found.judge, sorted(found.points), failed)


async def _points(
    judge: Server, rubric: Rubric, conversation: list[Message], new: str, old: str
) -> float | None:
    if new == old:
        return POINTS["tie"]
    sides = []
    for left, right in ((new, old), (old, new)):
        try:
            question = rubric.pair_question(conversation, left, right)
            answer = await ask_judge(judge, question, winner_schema(), read_winner)
        except NoAnswer:
            return None
        if "verdict" not in answer:
            return None
        sides.append(str(answer["verdict"]))
    there, back = sides[0], OTHER_SIDE[sides[1]]
    return POINTS[there if there == back else "tie"]
