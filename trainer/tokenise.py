"""Examples as token ids: exactly the ids that serving saw and generated.

The prompt is the chat template's rendering with the generation prompt, which serving calls here too.
The completion is what the model emitted, where that was stored; so a reply that hit the token limit
is not trained to stop, and no text is tokenised in another way than it was written.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from storage.errors import InvalidInput
from storage.examples import Example
from storage.filters import is_of_source

Message = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One example, tokenised; neither side is empty."""

    example: Example
    prompt_ids: list[int]
    completion_ids: list[int]
    weight: float = 1.0  # of this row's loss, beside the weight of its class

    @property
    def label(self) -> bool:
        return self.example.label

    @property
    def chat_id(self) -> str:
        return self.example.chat_id

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The ids after which the model writes its reply; raises InvalidInput if the template refuses."""
    return _render(tokenizer, messages, add_generation_prompt=True)


def completion_ids(tokenizer: Any, example: Example) -> list[int]:
    """The ids of the reply."""
    return encode(tokenizer, example)[1]


def encode(tokenizer: Any, example: Example) -> tuple[list[int], list[int]]:
    """Prompt ids and completion ids.

    A reply without stored ids is rendered by the template, and begins where that rendering leaves the
    prompt's (as in TRL: not every template renders a prompt alone as it does before a reply).
    """
    prompt = prompt_ids(tokenizer, example.prompt)
    if example.token_ids is not None:
        return prompt, example.token_ids
    both = _render(tokenizer, [*example.prompt, *example.completion], add_generation_prompt=False)
    shared = _common_prefix(prompt, both)
    return prompt[:shared], both[shared:]


def tokenise(
    tokenizer: Any, examples: Iterable[Example], *, max_length: int, import_weight: float = 1.0
) -> tuple[list[Row], Counter[str]]:
    """The rows that can be trained on, and how many examples were left out for which reason.

    Rows of imported chats get the weight `import_weight`.
    """
    rows: list[Row] = []
    dropped: Counter[str] = Counter()
    for example in examples:
        try:
            prompt, completion = encode(tokenizer, example)
        except InvalidInput:
            dropped["the chat template refuses the conversation"] += 1
            continue
        if not example.completion[0]["content"].strip() or not completion:
            dropped["the reply is empty"] += 1
        elif len(prompt) >= max_length:
            dropped[f"the prompt alone fills the {max_length} tokens of a row"] += 1
        else:
            weight = source_weight(example.origin, import_weight)
            rows.append(Row(example, prompt, completion, weight))
    return rows, dropped


def source_weight(source: str, import_weight: float) -> float:
    """What an example from a chat of this source weighs."""
    return import_weight if is_of_source(source, "import") else 1.0


def chat_template(tokenizer: Any) -> Callable[[list[Message], bool], str]:
    """What writes a conversation as text, as an export needs it; it raises InvalidInput like prompt_ids."""

    def render(messages: list[Message], add_generation_prompt: bool) -> str:
        try:
            text: str = tokenizer.apply_chat_template(
                messages, add_generation_prompt=add_generation_prompt, tokenize=False
            )
        except TemplateError as error:
            raise _refused(error) from error
        return text

    return render


def _render(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        raise _refused(error) from error
    return ids


def _refused(error: TemplateError) -> InvalidInput:
    return InvalidInput(
        f"The model's chat template refuses this conversation: {error}.", code="template_refused"
    )


def _common_prefix(left: list[int], right: list[int]) -> int:
    for position, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return position
    return min(len(left), len(right))
