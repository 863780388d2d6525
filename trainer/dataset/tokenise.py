"""Tokenises examples to exactly the ids that serving saw and generated.

The prompt is the chat template's rendering with the generation prompt, by the function that serving calls.
The completion is the ids the model generated, if they were stored. So a reply that hit the token limit is not
trained to stop, and no text is tokenised differently from how it was generated.
"""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from storage.errors import InvalidInput
from storage.examples.example import Example
from storage.examples.messages import common_prefix
from trainer.dataset.template import ended, prompt_ids, render, what_was_folded
from trainer.text import counted

NAMED = 5


class LeftOut(Counter[str]):
    """How many examples were left out, by reason, with the names of the first few.

    An example's name is its message id, or its position for rows of a file. `changed` counts the examples
    that stay but are not as they were given, by what was done to them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, list[str]] = {}
        self.changed: Counter[str] = Counter()

    def add(self, reason: str, name: str, detail: str = "") -> None:
        self[reason] += 1
        named = self.names.setdefault(reason, [])
        if len(named) < NAMED:
            named.append(f"{name} ({detail})" if detail else name)

    def lines(self) -> list[str]:
        """A sentence for each reason."""
        sentences = []
        for reason, count in self.items():
            names = self.names[reason]
            more = f" and {count - len(names)} more" if count > len(names) else ""
            sentences.append(f"Left out {count}, because {reason}: {', '.join(names)}{more}.")
        return sentences

    def notes(self) -> list[str]:
        """A sentence for each change to examples that stay."""
        return [f"In {counted(number, 'example')} {what}." for what, number in self.changed.items()]


@dataclass(frozen=True)
class TokenisedExample:
    """One tokenised example. Neither prompt nor completion is empty."""

    example: Example
    prompt_ids: list[int]
    completion_ids: list[int]
    weight: float = 1.0  # factor of this row's loss, in addition to its class weight

    @property
    def label(self) -> bool:
        return self.example.label

    @property
    def chat_id(self) -> str:
        return self.example.chat_id

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


def encode(tokenizer: Any, example: Example) -> tuple[list[int], list[int]]:
    """Prompt ids and completion ids. Raises InvalidInput if the template refuses.

    A reply without stored ids is rendered by the template. It begins where that rendering departs from the
    prompt's; as in TRL, because some templates render a prompt differently when a reply follows. It ends as
    a generated reply does, or, if it was cut, with its last word.
    """
    prompt = prompt_ids(tokenizer, example.prompt)
    if example.token_ids is not None:
        return prompt, example.token_ids
    both = render(tokenizer, [*example.prompt, *example.completion], add_generation_prompt=False)
    shared = common_prefix(prompt, both)
    if shared == len(both):
        return prompt[:shared], []
    return prompt[:shared], ended(tokenizer, both[shared:], cut=example.cut)


def tokenise(
    tokenizer: Any,
    examples: Iterable[Example],
    *,
    max_length: int,
    weigh: Callable[[Example], float] = lambda _example: 1.0,
    check: Callable[[], None] = lambda: None,
) -> tuple[list[TokenisedExample], LeftOut]:
    """The rows that can be trained on, and the examples that were left out, by reason.

    `weigh` gives each row its weight. `check` is called for each example, because a hundred thousand take
    minutes; it may raise Interrupted.
    """
    rows: list[TokenisedExample] = []
    dropped = LeftOut()
    for example in examples:
        check()
        try:
            prompt, completion = encode(tokenizer, example)
        except InvalidInput as error:
            dropped.add(
                "the chat template refuses the conversation", example.message_id, str(error.__cause__)
            )
            continue
        if not example.completion[0]["content"].strip() or not completion:
            dropped.add("the reply is empty", example.message_id)
        elif not prompt:
            dropped.add("the chat template leaves no prompt before the reply", example.message_id)
        elif len(prompt) >= max_length:
            reason = f"the prompt alone fills the {max_length} tokens of a row"
            dropped.add(reason, example.message_id, f"{len(prompt)} tokens")
        else:
            rows.append(TokenisedExample(example, prompt, completion, weigh(example)))
            dropped.changed.update(what_was_folded(tokenizer, example))
    return rows, dropped


def rows_digest(rows: Sequence[TokenisedExample]) -> str:
    """SHA-256 over all that the engine uses of the rows: ids, labels, chats and weights, in order."""
    digest = hashlib.sha256()
    for row in rows:
        head = json.dumps([len(row.prompt_ids), len(row.completion_ids), row.label, row.chat_id, row.weight])
        digest.update(head.encode())
        digest.update(array("q", [*row.prompt_ids, *row.completion_ids]).tobytes())
    return digest.hexdigest()
