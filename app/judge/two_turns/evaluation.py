"""Versions answer the questions of two turns; a judge rates each turn and compares it with the baseline's.

A line of the result is what one version replied to one question:

    {"version": "v2", "question_id": "1", "category": "math", "turns": [turn, turn]}

A turn has `reply` and `finished`, or `error`. With a reply it has `rating`, which is {"verdict", "reason"},
{"unparsable": text} or {"error"}. Where the baseline has replied, too, it has `orders`, two of the same kind:
with this version's reply on the left, and on the right. `result` is win, tie or loss, if both could be read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from app.judge.journal import Journal
from app.judge.two_turns.plan import PAIR, RATING, Plan
from app.judge.work import Job, Progress, do_jobs
from trainer.judge.asking import OTHER_SIDE, ask_judge
from trainer.judge.rubric import read_winner, winner_schema
from trainer.judge.servers import Server

# As in MT-Bench: where there is a right answer, nothing is left to chance.
TEMPERATURES = {
    **dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0),
    **dict.fromkeys(("stem", "humanities"), 0.1),
}
TEMPERATURE = 0.7  # of every other category
RESULTS = {"left": "win", "right": "loss", "tie": "tie"}
SIDES = ("left", "right")


@dataclass(frozen=True)
class Turn:
    """One turn of a question, counted from 0, for one version."""

    version: Server
    place: int  # of the question
    number: int

    def key(self, kind: str) -> str:
        return f"{kind} {self.place} {self.number} {self.version.spec.name}"


@dataclass(frozen=True)
class Evaluation:
    """The servers of a plan: its versions in their order, and its judge."""

    plan: Plan
    versions: Sequence[Server]
    judge: Server

    async def run(self, journal: Journal, progress: Progress) -> list[dict[str, Any]]:
        """Ask what the journal lacks; returns the lines. Raises NotReady as `do_jobs` does."""
        work = _Work(self, journal)
        await do_jobs(map(work.reply_job, work.askable(0)), journal, "first replies", progress)
        await do_jobs(map(work.reply_job, work.askable(1)), journal, "second replies", progress)
        await do_jobs(map(work.rating_job, work.rateable()), journal, "ratings", progress)
        if self.plan.baseline is not None:
            pairs = [work.pair_job(turn, side) for turn in work.comparable() for side in SIDES]
            await do_jobs(pairs, journal, "comparisons", progress)
        return [work.line(version, place) for version in self.versions for place in work.places]


class _Work:
    """The jobs of an evaluation, and what was answered to them."""

    def __init__(self, evaluation: Evaluation, journal: Journal) -> None:
        plan = evaluation.plan
        self._plan, self._judge, self._answers = plan, evaluation.judge, journal.answers
        self._versions = {version.spec.name: version for version in evaluation.versions}
        self.places = range(len(plan.questions))

    def askable(self, number: int) -> Iterator[Turn]:
        """The turns of this number; a second one needs a first reply."""
        for version in self._versions.values():
            for place in self.places:
                turn = Turn(version, place, number)
                if all(self._reply(earlier) is not None for earlier in self._until(turn)[:-1]):
                    yield turn

    def rateable(self) -> list[Turn]:
        turns = [turn for number in (0, 1) for turn in self.askable(number)]
        return [turn for turn in turns if self._reply(turn) is not None]

    def comparable(self) -> list[Turn]:
        """The turns to which the baseline has replied, too."""
        turns = [turn for turn in self.rateable() if turn.version.spec.name != self._plan.baseline]
        return [turn for turn in turns if self._reply(self._of_baseline(turn)) is not None]

    def reply_job(self, turn: Turn) -> Job:
        question, spec = self._plan.questions[turn.place], turn.version.spec
        usual: dict[str, Any] = {"temperature": TEMPERATURES.get(question.category, TEMPERATURE)}
        more = usual if spec.temperature is None else {}

        async def ask() -> dict[str, Any]:
            messages, seed = self._conversation(turn), self._plan.seed + turn.place
            answer = await turn.version.ask(messages, seed=seed, **more)
            return {"reply": answer.text, "finished": answer.finished}

        return Job(turn.key("reply"), turn.version, ask)

    def rating_job(self, turn: Turn) -> Job:
        question = RATING.rating_question(
            self._conversation(turn), self._reply(turn) or "", self._reference(turn)
        )

        async def ask() -> dict[str, Any]:
            schema = RATING.rating_schema()
            return await ask_judge(self._judge, question, schema, RATING.read_rating, self._plan.seed)

        return Job(turn.key("rating"), self._judge, ask)

    def pair_job(self, turn: Turn, side: str) -> Job:
        """Compare with the baseline, this version's replies on that side."""
        own, base = self._until(turn), self._until(self._of_baseline(turn))
        left, right = (own, base) if side == "left" else (base, own)
        asked = [message for message in self._conversation(turn) if message["role"] == "user"]
        question = PAIR.pair_question(asked, self._shown(left), self._shown(right), self._reference(turn))

        async def ask() -> dict[str, Any]:
            return await ask_judge(self._judge, question, winner_schema(), read_winner, self._plan.seed)

        return Job(turn.key(side), self._judge, ask)

    def line(self, version: Server, place: int) -> dict[str, Any]:
        question = self._plan.questions[place]
        turns = [self._turn(Turn(version, place, number)) for number in (0, 1)]
        named = {"version": version.spec.name, "question_id": question.id, "category": question.category}
        return {**named, "turns": turns}

    def _turn(self, turn: Turn) -> dict[str, Any]:
        found = dict(self._answers.get(turn.key("reply"), {"error": "there is no first reply to go on from"}))
        if rating := self._answers.get(turn.key("rating")):
            found["rating"] = rating
        orders = [self._answers[key] for side in SIDES if (key := turn.key(side)) in self._answers]
        if orders:
            found["orders"] = orders
            if all("verdict" in one for one in orders):
                left, right = orders[0]["verdict"], OTHER_SIDE[orders[1]["verdict"]]
                found["result"] = RESULTS[left] if left == right else "tie"
        return found

    def _of_baseline(self, turn: Turn) -> Turn:
        assert self._plan.baseline is not None
        return Turn(self._versions[self._plan.baseline], turn.place, turn.number)

    def _until(self, turn: Turn) -> list[Turn]:
        return [Turn(turn.version, turn.place, number) for number in range(turn.number + 1)]

    def _reply(self, turn: Turn) -> str | None:
        return self._answers.get(turn.key("reply"), {}).get("reply")

    def _conversation(self, turn: Turn) -> list[dict[str, str]]:
        """Up to the message that this turn replies to."""
        messages = []
        for earlier, text in zip(self._until(turn), self._plan.questions[turn.place].turns, strict=False):
            messages += [
                {"role": "user", "content": text},
                {"role": "assistant", "content": self._reply(earlier) or ""},
            ]
        return messages[:-1]

    def _shown(self, turns: Sequence[Turn]) -> str:
        replies = [self._reply(turn) or "" for turn in turns]
        return replies[0] if len(replies) == 1 else _numbered(replies)

    def _reference(self, turn: Turn) -> str | None:
        """The right answers so far; None if there are none."""
        answers = (self._plan.questions[turn.place].reference or ())[: turn.number + 1]
        if not any(answers):
            return None
        return answers[0] if turn.number == 0 else _numbered([answer or "not given" for answer in answers])


def _numbered(texts: Sequence[str]) -> str:
    return "\n\n".join(f"[{number}]\n{text}" for number, text in enumerate(texts, 1))
