"""A first version without votes: a pool of replies, a judge, a training, and the judge on unseen prompts.

Everything is in one folder, and the same call continues there after an interruption:

    plan.json                         what was asked for
    pool.jsonl, judged.jsonl          replies to the prompts to learn from, and their ratings
    run.json                          what became of the training
    unseen.jsonl, unseen.judged.jsonl replies of both versions to other prompts, and their ratings
    report.json                       the mean rating and the share that the judge likes, before and after
"""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from app.judge.conversations import Conversation, read_conversations
from app.judge.examples import kto_rows, likes, scores
from app.judge.expected import Expected, Share
from app.judge.judge import JudgePlan, judge_pool, report_file
from app.judge.own_server import check_names, opened_servers, read_spec
from app.judge.pool import PoolPlan, fill_pool, read_pool
from app.judge.store import store_rows
from app.judge.work import Progress
from app.simulation.prompts import SHIPPED
from storage.chats.proportions import exact_interval
from storage.db.database import Database, open_database
from storage.db.tables import TrainingRun
from storage.errors import Conflict, InvalidInput, NotReady
from storage.files.atomic import write_atomically
from storage.registry.evaluations import read_report
from storage.registry.model_versions import deployed_version, ensure_base, version_of_run
from storage.settings import Settings
from trainer.judge.rubric import Rubric
from trainer.judge.specs import is_own, parse_server

Train = Callable[[Database], TrainingRun]
UNSEEN_SAMPLES = 2
# For the plan: about what a token of English has, and what a verdict with its reason takes.
CHARS_A_TOKEN, VERDICT_TOKENS = 4, 60


@dataclass(frozen=True)
class BootstrapPlan:
    """What is asked of whom: `models` answer `learn_from` prompts `samples` times each, the judge rates that.

    Two replies of the version deployed now and of the new one to each of `unseen` other prompts are rated,
    too. The prompts are those of a file, or the ones that come with Thumbloop.
    """

    judge: str
    rubric: Rubric
    models: tuple[str, ...]
    prompts: Path | None = None
    learn_from: int = 150
    unseen: int = 48
    samples: int = 2
    max_tokens: int = 128
    seed: int = 0

    def identity(self) -> dict[str, Any]:
        """What the folder belongs to: no address and no key."""
        names = ("learn_from", "unseen", "samples", "max_tokens", "seed")
        return {
            "judge": _identity(self.judge, "judge"),
            "models": [_identity(model, "model") for model in self.models],
            "rubric": self.rubric.text,
            "prompts": str(self.prompts.absolute()) if self.prompts else None,
            **{name: getattr(self, name) for name in names},
        }


class Bootstrap:
    """A bootstrap in a folder, new or to be continued. Raises Conflict if the folder has another one."""

    def __init__(self, folder: Path, plan: BootstrapPlan, settings: Settings) -> None:
        self.folder, self.plan, self.settings = folder, plan, settings
        check_names(plan.models, settings)
        check_names([plan.judge], settings, "judge")
        everything = read_conversations(plan.prompts or SHIPPED)
        if len(everything) <= plan.unseen:
            raise InvalidInput(
                f"--unseen {plan.unseen}: there are {len(everything)} prompts; keep some to learn from.",
                field="unseen",
            )
        drawn = random.Random(plan.seed).sample(everything, len(everything))
        self.unseen, self.learned = drawn[: plan.unseen], drawn[plan.unseen :][: plan.learn_from]
        folder.mkdir(parents=True, exist_ok=True)
        file, identity = folder / "plan.json", plan.identity()
        if not file.exists():
            write_atomically(file, json.dumps(identity, indent=2) + "\n")
        elif (found := json.loads(file.read_text())) != identity:
            changed = sorted(name for name in identity if found.get(name) != identity[name])
            raise Conflict(
                f"{folder} has a bootstrap with another {', '.join(changed)}; repeat that command to "
                f"continue it, or name another folder with --out.",
                field="out",
            )

    def expected(self) -> Expected:
        """How much there will be if nothing is done yet; the training apart."""
        plan, chars = self.plan, [len(m["content"]) for one in self.learned for m in one.prompt]
        prompt = sum(chars) / len(self.learned) / CHARS_A_TOKEN
        question = len(plan.rubric.text) / CHARS_A_TOKEN + prompt + plan.max_tokens

        def replies(prompts: int, samples: int, models: Sequence[str]) -> list[Share]:
            return [Share(read_spec(one), prompts * samples, prompt, plan.max_tokens) for one in models]

        def rated(replies: Sequence[Share]) -> list[Share]:
            calls = sum(share.calls for share in replies)
            return [Share(read_spec(plan.judge, "judge"), calls, question, VERDICT_TOKENS)]

        pool = replies(len(self.learned), plan.samples, plan.models)
        unseen = replies(len(self.unseen), UNSEEN_SAMPLES, ("the version before", "the new version"))
        return Expected([pool, rated(pool), unseen, rated(unseen)])

    def run(self, train: Train, progress: Progress) -> dict[str, Any]:
        """Do what is missing and return the report; `train` requests a run and follows it to its end.

        Raises NotReady if a server is away or the training makes no version; the same call continues.
        """
        self._ask("pool", self.plan.models, self.learned, self.plan.samples, progress)
        rows = self._judge("pool", progress)
        ran = self._train(list(kto_rows(rows)), train)
        versions = (ran["before"], ran["version"])
        self._ask("unseen", versions, self.unseen, UNSEEN_SAMPLES, progress)
        unseen = self._judge("unseen", progress)
        report = {
            "plan": self.plan.identity(),
            "run": ran,
            "judge": read_report(report_file(self.folder / "unseen.judged.jsonl")),
            "versions": {name: measured(unseen, name) for name in versions},
        }
        write_atomically(self.folder / "report.json", json.dumps(report, indent=2) + "\n")
        return report

    def _ask(
        self,
        name: str,
        models: Sequence[str],
        asked: Sequence[Conversation],
        samples: int,
        progress: Progress,
    ) -> None:
        """The replies in `NAME.jsonl`."""
        out = self.folder / f"{name}.jsonl"

        async def run() -> None:
            sampling = {"temperature": 1.0, "max_tokens": self.plan.max_tokens}
            log = self.folder / "server.log"
            async with opened_servers(models, self.settings, log, sampling) as servers:
                await fill_pool(PoolPlan(asked, self.plan.seed, samples), servers, out, progress)

        if not out.exists():
            asyncio.run(run())

    def _judge(self, name: str, progress: Progress) -> list[dict[str, Any]]:
        """The rated replies of `NAME.jsonl`."""
        out = self.folder / f"{name}.judged.jsonl"

        async def run() -> None:
            plan = JudgePlan(self.plan.rubric, seed=self.plan.seed)
            log, only = self.folder / "server.log", [self.plan.judge]
            async with opened_servers(only, self.settings, log, {"temperature": 0.0}, "judge") as servers:
                await judge_pool(plan, self.folder / f"{name}.jsonl", servers[0], out, progress)

        if not out.exists():
            asyncio.run(run())
        return read_pool(out)

    def _train(self, rows: list[dict[str, Any]], train: Train) -> dict[str, Any]:
        """Import the examples and train on them; what became of it, with the names of both versions."""
        file = self.folder / "run.json"
        up = sum(row["label"] for row in rows)
        if not file.exists():
            with closing(open_database(self.settings)) as database:
                with database.write() as session:
                    ensure_base(session, self.settings.model)
                    before = deployed_version(session).name
                imported = store_rows(database, rows, self.folder)
                run = train(database)
                with database.read() as session:
                    version = version_of_run(session, run.id)
                    if version is None or version.state == "rejected":
                        remedy = "The same command trains again."
                        if not 0 < up < len(rows):
                            remedy = (
                                f"The judge rated {up} replies good and {len(rows) - up} bad: name another "
                                f"--rubric or --judge, or more prompts, and another folder with --out."
                            )
                        raise NotReady(f"There is no version to rate: {run.reason} {remedy}")
                    name = version.name
            found = {"up": up, "down": len(rows) - up, "new": imported.accepted, "before": before}
            found |= {"version": name, "reason": run.reason}
            write_atomically(file, json.dumps(found, indent=2) + "\n")
        ran: dict[str, Any] = json.loads(file.read_text())
        return ran


def measured(rows: Sequence[dict[str, Any]], author: str) -> dict[str, Any]:
    """The mean rating of an author's replies, and the share that the judge likes with its 95 % interval."""
    found = [
        (score, likes(row, score))
        for row in rows
        for reply, score in zip(row["replies"], scores(row), strict=True)
        if reply["model"] == author and score is not None
    ]
    liked = sum(one for _, one in found)
    interval = exact_interval(liked, len(found))
    return {
        "replies": len(found),
        "mean": fmean(score for score, _ in found) if found else None,
        "liked": liked / len(found) if found else None,
        "low": interval.low,
        "high": interval.high,
    }


def _identity(text: str, option: str) -> Any:
    return text if is_own(text) else parse_server(text, option).identity
