"""Runs the whole loop with simulated people: chat, vote, train, gate, deploy, and measure on unseen prompts.

Everything is in one folder. The same command continues there after an interruption:

    plan.json           what is simulated
    votes.jsonl         a line for each reply that a person read, with the vote or null
    cycles.jsonl        a line for each training that is over
    replies/NAME.jsonl  the replies of a version to the measured prompts
    coherence.json      by model and version, the mean log-probability of a token of these replies
    report.json, curve.png
    data/, server.log   the server's own
"""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count, filterfalse, islice
from pathlib import Path
from typing import Any

from app.simulation.coherence import log_probability
from app.simulation.measures import measure
from app.simulation.prompts import Prompt, read_prompts, split_prompts
from app.simulation.server import SimulatedServer, started_server
from app.simulation.tastes import SimulatedReply, load_taste
from storage.errors import Conflict
from storage.files.atomic import write_atomically
from storage.files.lines import Lines
from storage.settings import Settings

Progress = Callable[[dict[str, Any]], None]
BASE = "v1"
# Enough to fill a batch of the server, few enough that little is lost on an interruption.
TOGETHER = 8


@dataclass(frozen=True)
class SimulationPlan:
    """What is simulated.

    `votes` are cast in all, with a training after each `votes / cycles`. `noise` is the probability that a
    vote is the wrong one. Person k of `people` is chosen with a weight of 1/(k + 1)^skew. With `up_share`,
    people vote on only part of the replies, so that this share of the votes is up. `samples` replies to each
    of `measured` prompts, which nobody chats about, measure a version.
    """

    taste: str
    votes: int
    cycles: int
    people: int
    skew: float
    noise: float
    up_share: float | None
    measured: int
    samples: int
    prompts: str | None
    seed: int


class Simulation:
    """A simulation in a folder, new or to be continued. Raises Conflict if the folder has another one."""

    def __init__(self, folder: Path, plan: SimulationPlan, settings: Settings, progress: Progress) -> None:
        self.folder, self.plan, self.progress = folder.absolute(), plan, progress
        self.settings = settings
        self.taste = load_taste(plan.taste)
        everything = read_prompts(Path(plan.prompts) if plan.prompts else None)
        self.chatted, self.measured = split_prompts(everything, measured=plan.measured, seed=plan.seed)
        (self.folder / "replies").mkdir(parents=True, exist_ok=True)
        file = self.folder / "plan.json"
        if not file.exists():
            write_atomically(file, json.dumps(asdict(plan), indent=2) + "\n")
        elif (found := json.loads(file.read_text())) != asdict(plan):
            changed = sorted(name for name in found if found[name] != asdict(plan).get(name))
            raise Conflict(
                f"{self.folder} has a simulation with another {', '.join(changed)}; repeat that command to "
                f"continue it, or name another folder with --out.",
                field="out",
            )
        self.votes = Lines(self.folder / "votes.jsonl")
        self.cycles = Lines(self.folder / "cycles.jsonl")

    def run(self, coherence_model: str | None = None) -> dict[str, Any]:
        """Simulate what is missing; returns the report.

        The base model says how probable the replies of each version are; `coherence_model`, a folder or a hub
        id, says it too.
        """
        asyncio.run(self._run())
        models = [self.settings.model, *([coherence_model] if coherence_model else [])]
        report = self.report()
        for point in report["points"]:
            if point["measures"]:
                found = [self._log_probability(model, point["version"]) for model in models]
                point["measures"] |= dict(zip(("log_probability", "coherence"), found, strict=False))
        write_atomically(self.folder / "report.json", json.dumps(report, indent=2) + "\n")
        return report

    def report(self) -> dict[str, Any]:
        """The plan and a point of the learning curve for the base model and each training so far."""
        points = [{"votes": 0, "version": BASE, "state": "base", "reason": ""}, *self.cycles.read()]
        for point in points:
            replies = self._replies(point["version"])
            point["measures"] = measure(replies, self.taste) if replies else None
        return {"plan": asdict(self.plan), "points": points}

    async def _run(self) -> None:
        self.progress({"phase": "starting the server"})
        async with started_server(self.settings, self.folder / "server.log") as server:
            await self._measure(server, BASE)
            for cycle in range(len(self.cycles.read()), self.plan.cycles):
                await self._vote(server, -(-self.plan.votes * (cycle + 1) // self.plan.cycles))
                run = await server.train(self.progress)
                version = await server.deployed()
                cast = [line for line in self.votes.read() if line["vote"] is not None]
                await self._measure(server, version)
                self.cycles.append(
                    {
                        "votes": len(cast),
                        "up": sum(line["vote"] for line in cast),
                        "version": version,
                        "state": run["state"],
                        "reason": run["reason"],
                        "seconds": (run["metrics"] or {}).get("seconds"),
                    }
                )

    async def _vote(self, server: SimulatedServer, wanted: int) -> None:
        """People chat until that many votes are cast."""
        while (cast := sum(line["vote"] is not None for line in self.votes.read())) < wanted:
            self.progress({"phase": "people chat and vote", "step": cast, "steps": wanted})
            known = {line["number"] for line in self.votes.read()}
            numbers = filterfalse(known.__contains__, count())
            together = islice(numbers, min(TOGETHER, wanted - cast))
            await asyncio.gather(*(self._read_a_reply(server, number) for number in together))

    async def _read_a_reply(self, server: SimulatedServer, number: int) -> None:
        """Person and prompt follow from the seed and the number, so a continued simulation has the same."""
        draw = random.Random(f"{self.plan.seed}:{number}")
        weights = [float((place + 1) ** -self.plan.skew) for place in range(self.plan.people)]
        person = draw.choices(range(self.plan.people), weights)[0]
        prompt = draw.choice(self.chatted)
        message_id, reply = await server.reply(prompt, person=f"person {person}")
        liked = self.taste(reply)
        vote: bool | None = liked != (draw.random() < self.plan.noise)
        if draw.random() >= self._votes_on(bool(vote)):
            vote = None
        if vote is not None:
            await server.vote(message_id, vote)
        line = {"number": number, "person": person, "prompt": prompt.text, "message": message_id}
        self.votes.append(line | {"liked": liked, "vote": vote})

    def _votes_on(self, kind: bool) -> float:
        """The probability that a vote of this kind is cast, for the share of thumbs up that is wanted.

        The frequent kind is thinned by the ratio of its odds so far to the odds wanted.
        """
        share = self.plan.up_share
        if share is None:
            return 1.0
        lines = self.votes.read()
        ups = 1 + sum(line["liked"] for line in lines)  # one of each kind, so that the odds are finite
        downs = 2 + len(lines) - ups
        ratio: float = (share / (1 - share)) / (ups / downs)
        return min(1.0, ratio if kind else 1 / ratio)

    async def _measure(self, server: SimulatedServer, version: str) -> None:
        if self._replies(version):
            return
        wanted = [(prompt, sample) for prompt in self.measured for sample in range(self.plan.samples)]
        found: list[SimulatedReply] = []
        for start in range(0, len(wanted), TOGETHER):
            self.progress({"phase": f"measuring {version}", "step": len(found), "steps": len(wanted)})
            found += await asyncio.gather(
                *(
                    self._unseen(server, version, prompt, self.plan.seed + sample)
                    for prompt, sample in wanted[start : start + TOGETHER]
                )
            )
        lines = "".join(json.dumps(asdict(reply), ensure_ascii=False) + "\n" for reply in found)
        write_atomically(self._replies_file(version), lines)

    async def _unseen(
        self, server: SimulatedServer, version: str, prompt: Prompt, seed: int
    ) -> SimulatedReply:
        _, reply = await server.reply(prompt, person="measure", model=version, store=False, seed=seed)
        return reply

    def _log_probability(self, model: str, version: str) -> float:
        """Kept in a file, since it takes about as long as a reply."""
        file = self.folder / "coherence.json"
        kept: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
        if version not in kept.get(model, {}):
            replies = self._replies(version)

            def show(done: int) -> None:
                self.progress({"phase": f"reading replies of {version}", "step": done, "steps": len(replies)})

            settings = self.settings.model_copy(update={"model": model})
            kept.setdefault(model, {})[version] = log_probability(settings, replies, show)
            write_atomically(file, json.dumps(kept, indent=2) + "\n")
        return kept[model][version]

    def _replies_file(self, version: str) -> Path:
        return self.folder / "replies" / f"{version}.jsonl"

    def _replies(self, version: str) -> list[SimulatedReply]:
        file = self._replies_file(version)
        return [SimulatedReply(**line) for line in Lines(file).read()]
