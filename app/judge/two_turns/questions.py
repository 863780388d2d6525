"""Questions of two turns, in MT-Bench's format: the shipped 80 or a file.

    {"question_id": 1, "category": "math", "turns": ["…", "…"], "reference": ["…", "…"]}

`reference` has the right answer to each turn. It may be missing, and either of the two may be empty.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import InvalidInput

OWN = "own"
SHIPPED = Path(__file__).with_name("questions.jsonl")


@dataclass(frozen=True)
class Question:
    id: str
    category: str
    turns: tuple[str, str]
    reference: tuple[str, str] | None = None


def read_questions(given: str) -> list[Question]:
    """The questions of a file, or the shipped ones for `own`. Raises InvalidInput, which names the line."""
    file = SHIPPED if given == OWN else Path(given)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"--questions {given}: neither `own` nor a file that can be read.", field="questions"
        ) from error
    found: dict[str, Question] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            question = _question(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidInput(
                f"--questions {given}, line {number}: not an object with `question_id`, `category`, two "
                f"`turns` and maybe two of `reference`.",
                field="questions",
            ) from error
        if question.id in found:
            raise InvalidInput(
                f"--questions {given}, line {number}: question_id {question.id} is there already.",
                field="questions",
            )
        found[question.id] = question
    if not found:
        raise InvalidInput(f"--questions {given}: there is no question in it.", field="questions")
    return list(found.values())


def _question(row: Mapping[str, Any]) -> Question:
    reference = row.get("reference")
    return Question(
        id=str(row["question_id"]),
        category=_text(row["category"]),
        turns=_two_texts(row["turns"], _text),
        reference=_two_texts(reference, _text_or_empty) if reference else None,
    )


def _two_texts(values: Any, text: Callable[[Any], str]) -> tuple[str, str]:
    if not isinstance(values, list):
        raise TypeError(values)
    first, second = values
    return text(first), text(second)


def _text(value: Any) -> str:
    if not _text_or_empty(value).strip():
        raise ValueError(value)
    return str(value)


def _text_or_empty(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value
