"""Asks many things at once, with a limit for each server, and keeps each answer as it comes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from app.judge.journal import Journal
from storage.errors import NotReady
from trainer.judge.servers import IN_A_ROW, NoAnswer, Refused, Server, away

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """Something to ask a server; `key` names it in the journal, and `ask` gives what is kept there."""

    key: str
    server: Server
    ask: Callable[[], Awaitable[dict[str, Any]]]


@dataclass
class _Queue:
    """The jobs of one server, the next one last, and its failures since it last answered."""

    jobs: list[Job] = field(default_factory=list)
    answered: int = 0
    failed: list[tuple[Job, NoAnswer]] = field(default_factory=list)

    @property
    def is_away(self) -> bool:
        """Whether there is no sign of the server: a refusal of single requests is one."""
        return not self.answered and any(not isinstance(error, Refused) for _, error in self.failed)

    def seconds_left(self, elapsed: float) -> float | None:
        """By the pace so far; None before the first answer. The first ones come together."""
        if not self.jobs:
            return 0.0
        at_once = self.jobs[-1].server.spec.at_once
        return elapsed / max(self.answered, at_once) * len(self.jobs) if self.answered else None

    def keep_failed(self, journal: Journal) -> int:
        for job, error in self.failed:
            journal.append(job.key, {"error": error.message})
        count = len(self.failed)
        self.failed.clear()
        return count


async def do_jobs(jobs: Iterable[Job], journal: Journal, phase: str, progress: Progress) -> None:
    """Do the jobs that have no answer yet. One that fails for good is kept as `{"error": reason}`.

    Raises NotReady once a server gives no answer ten times in a row, or none at all; what it failed to
    answer is asked again next time.
    """
    everything = list(jobs)
    waiting = [job for job in everything if job.key not in journal.answers]
    done, began = len(everything) - len(waiting), time.monotonic()

    def tell() -> None:
        left = [queue.seconds_left(time.monotonic() - began) for queue in queues.values()]
        known = [one for one in left if one is not None]
        longest = max(known) if known and len(known) == len(left) else None
        progress({"phase": phase, "step": done, "steps": len(everything), "seconds_left": longest})

    async def work(queue: _Queue) -> None:
        nonlocal done
        while queue.jobs:
            job = queue.jobs.pop()
            try:
                answer = await job.ask()
            except NoAnswer as error:
                queue.failed.append((job, error))
                if len(queue.failed) >= IN_A_ROW:
                    raise away(job.server.spec.name, len(queue.failed), error) from error
                continue
            done += queue.keep_failed(journal) + 1
            queue.answered += 1
            journal.append(job.key, answer)
            tell()

    queues: dict[Server, _Queue] = {}
    for job in reversed(waiting):
        queues.setdefault(job.server, _Queue()).jobs.append(job)
    tell()
    try:
        async with asyncio.TaskGroup() as group:
            for server, queue in queues.items():
                for _ in range(min(server.spec.at_once, len(queue.jobs))):
                    group.create_task(work(queue))
    except* NotReady as errors:
        raise errors.exceptions[0] from None
    for server, queue in queues.items():
        if queue.is_away:
            raise away(server.spec.name, len(queue.failed), queue.failed[-1][1])
        queue.keep_failed(journal)
