"""Several models answer the last turn of each conversation: `thumbloop pool`.

A line of the result is a conversation with its replies:

    {"id": "…", "prompt": [messages], "replies": [{"model", "content", "finished", "vote"?} or
                                                  {"model", "error"}]}
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.judge.conversations import Conversation
from app.judge.journal import Journal
from app.judge.work import Job, Progress, do_jobs
from storage.errors import InvalidInput, NotReady
from storage.files.atomic import write_atomically
from trainer.judge.servers import Server


@dataclass(frozen=True)
class PoolPlan:
    """What is asked: the conversations, how many replies of each model, and with which base seed."""

    conversations: Sequence[Conversation]
    seed: int = 0
    samples: int = 1

    def identity(self, servers: Sequence[Server]) -> dict[str, Any]:
        return {
            "conversations": [one.id for one in self.conversations],
            "models": [server.spec.identity for server in servers],
            "seed": self.seed,
            "samples": self.samples,
        }


async def fill_pool(plan: PoolPlan, servers: Sequence[Server], out: Path, progress: Progress) -> int:
    """Ask each server for replies to each conversation and write the result to `out`.

    Returns how many replies failed for good; the result has their errors. The replies so far are in a file
    beside it, so the same call continues after a kill. Raises as `Journal` and `do_jobs` do.
    """
    names = [server.spec.name for server in servers]
    if len(set(names)) < len(names):
        raise InvalidInput(f"Two models have one name: {', '.join(names)}.", field="model")

    def key(one: Conversation, name: str, sample: int) -> str:
        return f"{one.id} {name} {sample}"

    def job(server: Server, place: int, one: Conversation, sample: int) -> Job:
        async def ask() -> dict[str, Any]:
            seed = plan.seed + place + sample * len(plan.conversations)
            answer = await server.ask(one.prompt, seed=seed)
            return {
                "content": answer.text,
                "finished": answer.finished,
                "tokens": [answer.prompt_tokens, answer.completion_tokens],
            }

        return Job(key(one, server.spec.name, sample), server, ask)

    jobs = [
        job(server, place, one, sample)
        for place, one in enumerate(plan.conversations)
        for server in servers
        for sample in range(plan.samples)
    ]
    with Journal(out, plan.identity(servers)) as journal:
        await do_jobs(jobs, journal, "replies", progress)

        def line(one: Conversation) -> dict[str, Any]:
            new = [
                {"model": name, **journal.answers[key(one, name, sample)]}
                for name in names
                for sample in range(plan.samples)
            ]
            return {
                "id": one.id,
                "prompt": one.prompt,
                "replies": [*(r.as_dict() for r in one.replies), *new],
            }

        write_lines(out, map(line, plan.conversations))
        journal.remove()
        return sum("error" in answer for answer in journal.answers.values())


def read_pool(file: Path) -> list[dict[str, Any]]:
    """The lines of a pool, or of a judged one; raises InvalidInput, which names the line."""
    found: list[dict[str, Any]] = []
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InvalidInput(f"{file} cannot be read: {reason}.", field="file") from error
    for number, line in enumerate(filter(None, text.split("\n")), 1):
        try:
            row = json.loads(line)
            texts = [reply["model"] + reply.get("content", "") for reply in row["replies"]]
            texts += [message["role"] + message["content"] for message in row["prompt"]]
            if not isinstance(row["id"], str) or len(texts) < 2:
                raise ValueError(row["id"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(
                f"{file}, line {number}: not a conversation with replies, as `thumbloop pool` writes them.",
                field="file",
            ) from error
        found.append(row)
    if not found:
        raise InvalidInput(f"{file} has no conversations; `thumbloop pool` makes them.", field="file")
    return found


def write_lines(file: Path, rows: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> None:
    """Write JSON lines atomically. Raises NotReady if the file cannot be written."""
    try:
        write_atomically(file, (json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
    except OSError as error:
        reason = f"{file} cannot be written ({error.strerror}). Mend that; the same command goes on."
        raise NotReady(reason) from error
