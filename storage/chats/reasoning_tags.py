"""The tags that models write around their reasoning: the one table of them. Pure.

Reasoning is kept without tags, and written with `THINK` where nothing says how its model does.
"""

import re
from functools import cached_property, lru_cache
from typing import Any

QUOTES = "`'\"“”‘’«»"  # a tag in them is text


class Tag:
    """How one kind of model marks its reasoning.

    `before` are marks that stand before the reply, `after` those that stand after it; they are no part of it.
    `alone` is the closing mark of a text whose opening one stands in the prompt. `space` stands around
    reasoning.
    """

    def __init__(
        self,
        open: str,
        close: str,
        before: tuple[str, ...] = (),
        after: tuple[str, ...] = (),
        *,
        alone: str = "",
        space: str = "\n",
    ) -> None:
        self.open, self.close, self.before, self.after, self.space = open, close, before, after, space
        self.alone = alone or close

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Either tag, not in quotes."""
        return _unquoted(self.open, self.close)

    @cached_property
    def first(self) -> re.Pattern[str]:
        """As `pattern`, where the reasoning may have begun in the prompt."""
        return _unquoted(self.open, self.alone)

    def written(self, reasoning: str, reply: str) -> str:
        """Both as such a model writes them."""
        begin, end = self.open + self.space, self.space + self.close + 2 * self.space
        return f"{begin}{reasoning}{end}{''.join(self.before[:2])}{reply}"


def _unquoted(*tags: str) -> re.Pattern[str]:
    marks = map(re.escape, tags)
    return re.compile("|".join(f"(?<![{QUOTES}]){mark}|{mark}(?![{QUOTES}])" for mark in marks))


THINK = Tag("<think>", "</think>")
TAGS = (
    THINK,  # Qwen, DeepSeek and most others
    Tag("<thinking>", "</thinking>"),
    Tag("<reasoning>", "</reasoning>"),
    Tag("<thought>", "</thought>"),
    Tag("[THINK]", "[/THINK]", space=""),  # Mistral
    Tag("<seed:think>", "</seed:think>"),
    Tag("◁think▷", "◁/think▷"),  # Kimi
    Tag(
        "<|begin_of_thought|>",
        "<|end_of_thought|>",
        ("<|begin_of_solution|>",),
        ("<|end_of_solution|>",),
    ),
    Tag("<|START_THINKING|>", "<|END_THINKING|>", ("<|START_RESPONSE|>",), ("<|END_RESPONSE|>",)),
    Tag(  # gpt-oss: channels
        "<|channel|>analysis<|message|>",
        "<|end|>",
        ("<|start|>assistant", "<|channel|>final<|message|>", "<|channel|>commentary<|message|>"),
        ("<|return|>", "<|end|>"),
        alone="<|end|><|start|>assistant",
        space="",
    ),
)
OPENING = {tag.open: tag for tag in TAGS}
BEFORE = {mark: tag for tag in TAGS for mark in tag.before}
MARKS = re.compile("|".join(re.escape(mark) for tag in TAGS for mark in (tag.open, tag.close, *tag.before)))


def opens(prompt: str) -> Tag | None:
    """The tag by which a rendered prompt ends, so that what is generated begins inside the reasoning."""
    end = prompt.rstrip()
    return next((tag for tag in TAGS if end.endswith(tag.open)), None)


def tag_in(template: str) -> Tag | None:
    """The tag that a chat template speaks of."""
    return next((tag for tag in TAGS if tag.open in template or tag.alone in template), None)


@lru_cache(maxsize=8)
def marks_of(tokenizer: Any) -> frozenset[int]:
    """The special tokens of a tokenizer that tell reasoning from a reply."""
    special = {token.content: at for at, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(
        at
        for tag in TAGS
        if any(text in tag.open for text in special)
        for text, at in special.items()
        if any(text in mark for mark in (tag.open, tag.close, *tag.before))
    )
