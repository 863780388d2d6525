"""The prompts to which the gate samples replies: those of held-out votes, then general ones."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from trainer.dataset.template import prompt_ids
from trainer.dataset.tokenise import TokenisedExample
from trainer.taste.sampler import Prompt

GENERAL = Path(__file__).with_name("general_prompts.txt")


def gate_prompts(
    rows: Sequence[TokenisedExample], tokenizer: Any, *, count: int, longest: int, system_prompt: str
) -> list[Prompt]:
    """`count` different prompts of at most `longest` tokens; fewer if there are not so many.

    People's own prompts come first, newest first, since their taste is known best there. The general ones,
    in several languages, make up for those that are missing.
    """
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    people = (Prompt.of(row) for row in reversed(rows))
    general = (
        Prompt(messages, prompt_ids(tokenizer, messages))
        for text in general_prompts()
        for messages in [[*system, {"role": "user", "content": text}]]
    )
    found: dict[tuple[int, ...], Prompt] = {}
    for source in (people, general):
        for prompt in source:
            if len(found) < count and len(prompt.ids) <= longest:
                found.setdefault(tuple(prompt.ids), prompt)
    return list(found.values())


@cache
def general_prompts() -> tuple[str, ...]:
    return tuple(GENERAL.read_text().splitlines())
