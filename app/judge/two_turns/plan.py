"""What a two-turn evaluation asks: the questions, the versions, the judge and the baseline."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from app.judge.own_server import read_spec
from app.judge.two_turns.questions import Question
from storage.errors import InvalidInput
from trainer.judge.rubric import Rubric
from trainer.judge.specs import name_of

HERE = Path(__file__).parent
RATING, PAIR = (Rubric.parse(name, (HERE / f"{name}.jinja").read_text()) for name in ("rating", "pair"))


@dataclass(frozen=True)
class Plan:
    """Versions and judge are as given: an own version such as v2, or NAME=URL,… of a server.

    `baseline` is the name of one of the versions; `max_tokens` is the longest reply of own versions.
    """

    questions: Sequence[Question]
    versions: Sequence[str]
    judge: str
    baseline: str | None = None
    max_tokens: int = 256
    seed: int = 0

    @classmethod
    def of(
        cls, questions: Sequence[Question], versions: Sequence[str], baseline: str | None, **more: Any
    ) -> "Plan":
        """The plan; a baseline that is none of the versions becomes the first of them.

        Raises InvalidInput if two have the same name.
        """
        names = [name_of(given) for given in versions]
        if baseline is not None and name_of(baseline) not in names:
            versions, names = [baseline, *versions], [name_of(baseline), *names]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise InvalidInput(f"{', '.join(sorted(doubled))} is given twice; give each a name of its own.")
        if baseline is not None and len(names) == 1:
            raise InvalidInput(
                f"--baseline {baseline}: name another version to compare with it.", field="baseline"
            )
        return cls(questions, versions, baseline=baseline and name_of(baseline), **more)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the answers depend on. Raises InvalidInput for a NAME=URL,… that cannot be read."""
        asked = json.dumps([asdict(question) for question in self.questions])
        return {
            "versions": [self._identity(given, "VERSION") for given in self.versions],
            "judge": self._identity(self.judge, "--judge"),
            "baseline": self.baseline,
            "questions": _digest(asked),
            "rubrics": _digest(RATING.text + PAIR.text),
            "seed": self.seed,
        }

    @property
    def folder_name(self) -> str:
        """A name of its own for each plan."""
        names = [name_of(given) for given in (*self.versions, self.judge)]
        return "-".join((*names, _digest(json.dumps(self.identity))[:8])).replace("/", "_")

    def _identity(self, given: str, what: str) -> dict[str, Any]:
        try:
            return read_spec(given, max_tokens=self.max_tokens).identity
        except InvalidInput as error:
            raise InvalidInput(error.message.replace("--model", what, 1), field=error.field) from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
