"""Asks a judge for a verdict, and whether it prefers one version's replies to another's."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from storage.errors import NotReady
from trainer.judge.estimate import estimate
from trainer.judge.rubric import ASK_AGAIN, Rubric, Verdict, read_rubric, read_winner, winner_schema
from trainer.judge.servers import IN_A_ROW, Message, NoAnswer, Server, away
from trainer.judge.specs import parse_server

Found = TypeVar("Found")
Conversation = Sequence[Message]

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
    the old one did, ½ for a tie. `failed` prompts got no answer that could be read. In the measures, `share`
    is the mean of the points with its 95 % interval, by bootstrap over the prompts.
    """

    judge: str
    points: list[float] = field(default_factory=list)
    failed: int = 0

    def to_dict(self) -> dict[str, Any]:
        counts = {
            name: self.points.count(value) for name, value in (("won", 1.0), ("ties", 0.5), ("lost", 0.0))
        }
        found = estimate(self.points)
        share = found and {name: found[name] for name in ("mean", "low", "high")}
        return {"judge": self.judge, **counts, "failed": self.failed, "share": share}


def ask_preference(
    server: str,
    conversations: Sequence[Conversation],
    new: Sequence[str],
    old: Sequence[str],
    progress: Callable[[int], None] = lambda _done: None,
) -> Preference:
    """Compare the replies to each conversation in both orders; equal ones tie, without asking.

    `server` is NAME=URL,KEY,MODEL. A judge that is away leaves every prompt failed. Raises InvalidInput.
    """
    rubric, judge = read_rubric("pair"), Server(parse_server(server, "judge"))
    rows = list(zip(conversations, new, old, strict=True))

    def compare(number: int) -> Awaitable[float | None]:
        return _points(judge, rubric, *rows[number])

    try:
        found = ask_each(judge, len(rows), compare, progress)
    except NotReady:
        return Preference(judge.spec.name, failed=len(rows))
    points = sorted(one for one in found if one is not None)
    return Preference(judge.spec.name, points, len(found) - len(points))


def ask_each(
    judge: Server,
    count: int,
    ask: Callable[[int], Awaitable[Found | None]],
    progress: Callable[[int], None] = lambda _done: None,
) -> list[Found | None]:
    """What `ask` gives for each number below `count`, as many at once as the judge takes.

    None where it gives none or the judge gave no answer. `progress` is called each second, too, and may raise
    to stop. Raises NotReady where the judge gave no answer ten times in a row, or none at all.
    """
    return asyncio.run(_ask_each(judge, count, ask, progress))


async def _ask_each(
    judge: Server,
    count: int,
    ask: Callable[[int], Awaitable[Found | None]],
    progress: Callable[[int], None],
) -> list[Found | None]:
    room = asyncio.Semaphore(judge.spec.at_once)
    answered, failed = False, 0

    async def ask_one(number: int) -> Found | None:
        nonlocal answered, failed
        async with room:
            try:
                found = await ask(number)
            except NoAnswer as error:
                failed += 1
                if failed == IN_A_ROW or (failed == count and not answered):
                    raise away(judge.spec.name, failed, error) from error
                return None
        answered, failed = True, 0
        return found

    async with judge:
        tasks = [asyncio.create_task(ask_one(number)) for number in range(count)]
        waiting = set(tasks)
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what it raised
            progress(count - len(waiting))
        return [task.result() for task in tasks]


async def _points(
    judge: Server, rubric: Rubric, conversation: Conversation, new: str, old: str
) -> float | None:
    """Raises NoAnswer; None where a verdict could not be read."""
    if new == old:
        return POINTS["tie"]
    sides = []
    for left, right in ((new, old), (old, new)):
        question = rubric.pair_question(conversation, left, right)
        answer = await ask_judge(judge, question, winner_schema(), read_winner)
        if "verdict" not in answer:
            return None
        sides.append(str(answer["verdict"]))
    there, back = sides[0], OTHER_SIDE[sides[1]]
    return POINTS[there if there == back else "tie"]
