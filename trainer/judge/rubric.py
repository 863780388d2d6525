"""Rubrics: what a judge is asked, as a Jinja template, and how its answer is read.

A template receives `conversation` (messages), and `reply` and maybe `reference`, or `left` and `right`.
It may set `scale = [lowest, highest]` (otherwise 1 to 5) and `pattern`, a regular expression whose first
group is the rating in a judge's text.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from storage.errors import InvalidInput

SHIPPED = Path(__file__).with_name("rubrics")
SCALE = (1.0, 5.0)
# What judges write where they do not answer with JSON: [[4]], or a line such as "Rating: 4" or "4/5".
PATTERNS = (
    r"\[\[\s*(-?\d+(?:\.\d+)?)\s*\]\]",
    r"(?im)^\W*(?:overall\s+)?(?:rating|score)\W*(-?\d+(?:\.\d+)?)(?:\s*/\s*\d+)?\W*$",
)
WINNERS = {"a": "left", "b": "right", "tie": "tie"}
ASK_AGAIN = (
    "That could not be read. Answer with the JSON object alone, as described at the end of my message."
)


@dataclass(frozen=True)
class Verdict:
    """A rating on the rubric's scale, or the winner: left, right or tie; and the reason."""

    value: float | str
    reason: str


@dataclass(frozen=True)
class Rubric:
    """A template with its scale and the patterns of a rating; make it with `parse`."""

    name: str
    text: str
    scale: tuple[float, float]
    patterns: tuple[str, ...]

    @classmethod
    def parse(cls, name: str, text: str) -> Self:
        """Raises InvalidInput for a template that cannot be rendered, and for a wrong scale or pattern."""
        try:
            module = _template(text).make_module(_EXAMPLE)
            low, high = map(float, getattr(module, "scale", SCALE))
            pattern = getattr(module, "pattern", None)
            if not low < high or (pattern and re.compile(pattern).groups < 1):
                raise ValueError("`scale` must rise, and `pattern` needs a group for the rating")
        except (TemplateError, TypeError, ValueError, re.error) as error:
            raise _unusable(name, error) from error
        return cls(name, text, (low, high), (*([pattern] if pattern else ()), *PATTERNS))

    def rating_question(
        self, conversation: Sequence[Mapping[str, str]], reply: str, reference: str | None = None
    ) -> str:
        return self._render(conversation=conversation, reply=reply, reference=reference)

    def pair_question(
        self, conversation: Sequence[Mapping[str, str]], left: str, right: str, reference: str | None = None
    ) -> str:
        return self._render(conversation=conversation, left=left, right=right, reference=reference)

    def read_rating(self, text: str) -> Verdict | None:
        """The rating in a judge's answer; None if there is none on the scale, which is never guessed."""
        found = _json_in(text)
        rating = _number(found.get("rating", found.get("score")))
        if rating is None:
            matches = [match for one in self.patterns for match in re.finditer(one, text)]
            values = {_number(match.group(1)) for match in matches}
            rating = values.pop() if len(values) == 1 else None
        if rating is None or not self.scale[0] <= rating <= self.scale[1]:
            return None
        return Verdict(rating, str(found.get("reason") or "").strip() or text.strip())

    def rating_schema(self) -> dict[str, Any]:
        low, high = (int(end) if end == int(end) else end for end in self.scale)
        return _schema("rating", {"type": "integer", "minimum": low, "maximum": high})

    def _render(self, **values: Any) -> str:
        try:
            return str(_template(self.text).render({**dict.fromkeys(_EXAMPLE), **values})).strip()
        except TemplateError as error:
            raise _unusable(self.name, error) from error


def _unusable(name: str, error: Exception) -> InvalidInput:
    line = f", line {error.lineno}," if isinstance(error, TemplateSyntaxError) else ""
    known = f"; it is given {', '.join(_EXAMPLE)}" if isinstance(error, UndefinedError) else ""
    reason = str(error).rstrip(".")
    return InvalidInput(f"The rubric {name}{line} cannot be used: {reason}{known}.", field="rubric")


def read_rubric(given: str) -> Rubric:
    """A rubric that comes with Thumbloop, by its name, or a file; raises InvalidInput."""
    shipped = SHIPPED / f"{given}.jinja"
    file = shipped if shipped.exists() else Path(given)
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(sorted(one.stem for one in SHIPPED.glob("*.jinja")))
        raise InvalidInput(
            f"--rubric {given}: neither one of {names} nor a file that can be read.", field="rubric"
        ) from error
    return Rubric.parse(given, text)


def read_winner(text: str) -> Verdict | None:
    """The winner in a judge's answer: left, right or tie; None if there is none, which is never guessed."""
    found = _json_in(text)
    named = str(found.get("winner") or "")
    if not named:
        marks = set(re.findall(r"\[\[\s*(A|B|C|tie)\s*\]\]", text, re.IGNORECASE))
        named = {"C": "tie"}.get(mark := marks.pop(), mark) if len(marks) == 1 else ""
    winner = WINNERS.get(named.strip().lower())
    if winner is None:
        return None
    return Verdict(winner, str(found.get("reason") or "").strip() or text.strip())


def winner_schema() -> dict[str, Any]:
    return _schema("winner", {"type": "string", "enum": ["A", "B", "tie"]})


_EXAMPLE: dict[str, Any] = {
    "conversation": [{"role": "user", "content": "?"}],
    **{name: "" for name in ("reply", "reference", "left", "right")},
}


def _template(text: str) -> Any:
    # A rubric may come from somebody else, and what it shows comes from models.
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False).from_string(text)


def _schema(name: str, kind: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"reason": {"type": "string"}, name: kind},
        "required": ["reason", name],
        "additionalProperties": False,
    }


def _json_in(text: str) -> dict[str, Any]:
    """The last JSON object in a text, which may stand in a code block or after some thoughts."""
    return next((found for found in _objects(text) if found.keys() & {"rating", "score", "winner"}), {})


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    for start in [match.start() for match in re.finditer(r"\{", text)][::-1]:
        try:
            found, _ = decoder.raw_decode(text, start)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
