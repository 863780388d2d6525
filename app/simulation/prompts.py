"""The prompts of a simulation, from the shipped set or a file: those to chat about and those to measure."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.errors import InvalidInput

SHIPPED = Path(__file__).with_name("prompts.jsonl")


@dataclass(frozen=True)
class Prompt:
    text: str
    language: str = "en"
    answer: str | None = None


def read_prompts(file: Path | None = None) -> list[Prompt]:
    """The prompts of a JSONL file with `prompt` and maybe `language` and `answer`, or of the shipped set.

    Raises InvalidInput, which names the line.
    """
    found: list[Prompt] = []
    path = file or SHIPPED
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"--prompts {path} cannot be read: {error}.") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            text = row["prompt"]
            found.append(Prompt(text, row.get("language", "en"), row.get("answer")))
            assert isinstance(text, str)
            assert text.strip()
        except (ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
            raise InvalidInput(f"--prompts {path}, line {number}: not an object with a `prompt`.") from error
    return found


def split_prompts(
    prompts: Sequence[Prompt], *, measured: int, seed: int
) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts to chat about and `measured` others, drawn by the seed. Raises InvalidInput if too few."""
    if len(prompts) <= measured:
        raise InvalidInput(
            f"--measured {measured}: there are {len(prompts)} prompts; keep some to chat about."
        )
    drawn = random.Random(seed).sample(list(prompts), len(prompts))
    return drawn[measured:], drawn[:measured]
