"""Renders conversations with a model's chat template, for serving, training and exports alike.

Templates differ in what they take. Some refuse or drop a system message, some a conversation that begins with
the assistant. What a template does not take is folded into what it does, so such a model reads everything.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from storage.chats.conversation import BETWEEN
from storage.errors import InvalidInput
from storage.examples.messages import Message
from storage.exports.shapes import ChatTemplate

Messages = Sequence[Mapping[str, str]]
# A Jinja template can raise its own refusals and any programming error of its author.
TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
NO_SYSTEM = "the chat template takes no system message: its text begins the user's first message"
NO_GREETING = "the chat template takes no greeting: an empty message of the user stands before it"
SYSTEM, GREETING = "Cedar marmot.", "Good morning, walrus."  # no template holds these texts by itself


def prompt_ids(tokenizer: Any, messages: Messages) -> list[int]:
    """The token ids of the prompt with the generation prompt. Raises InvalidInput if the template refuses."""
    ids: list[int] = render(tokenizer, messages, add_generation_prompt=True)
    return ids


def chat_template(tokenizer: Any) -> ChatTemplate:
    """Renders conversations as text, for exports; it raises InvalidInput like `prompt_ids`.

    A tokenizer that adds a BOS token by itself finds none in the text, so it never has two.
    """
    bos = tokenizer.bos_token or ""
    added = bool(bos) and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    asked = [{"role": "user", "content": ""}]
    begins = bool(bos) and render(tokenizer, asked, True, tokenize=False).startswith(bos)

    def text(messages: list[Message], add_generation_prompt: bool) -> str:
        found: str = render(tokenizer, messages, add_generation_prompt, tokenize=False)
        return found.removeprefix(bos) if added else found

    return ChatTemplate(text, bos if begins and not added else "")


def render(tokenizer: Any, messages: Messages, add_generation_prompt: bool, **how: Any) -> Any:
    """The messages, folded, as the template renders them. Raises InvalidInput if it refuses them."""
    try:
        return _rendered(tokenizer, folded(tokenizer, messages), add_generation_prompt, **how)
    except TEMPLATE_ERRORS as error:
        raise InvalidInput(
            f"The model's chat template refuses this conversation: {error}.", code="template_refused"
        ) from error


def folded(tokenizer: Any, messages: Messages) -> list[Message]:
    """The messages as the template takes them; mostly the same."""
    lacks = lacking(tokenizer)
    found = [dict(message) for message in messages]
    if NO_SYSTEM in lacks and found and found[0]["role"] == "system":
        said = found.pop(0)["content"]
        if found and found[0]["role"] == "user":
            said += BETWEEN + found.pop(0)["content"]
        found.insert(0, {"role": "user", "content": said})
    if NO_GREETING in lacks and _begins_with(found, "assistant"):
        place = 1 if found[0]["role"] == "system" else 0
        found.insert(place, {"role": "user", "content": ""})
    return found


def what_was_folded(tokenizer: Any, messages: Messages) -> Iterator[str]:
    """A sentence for each thing that `folded` changes in these messages."""
    lacks = lacking(tokenizer)
    if NO_SYSTEM in lacks and messages[0]["role"] == "system":
        yield NO_SYSTEM
    elif NO_GREETING in lacks and _begins_with(messages, "assistant"):
        yield NO_GREETING


def lacking(tokenizer: Any) -> frozenset[str]:
    """What the tokenizer's chat template does not take: NO_SYSTEM, NO_GREETING, or neither."""
    return _lacking(tokenizer, json.dumps(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _lacking(tokenizer: Any, _template: str) -> frozenset[str]:
    asked = {"role": "user", "content": "Hello"}

    def takes(*messages: Mapping[str, str]) -> bool:
        try:
            text = _rendered(tokenizer, messages, True, tokenize=False)
        except TEMPLATE_ERRORS:
            return False
        return all(message["content"] in text for message in messages)

    if not takes(asked):
        return frozenset()  # it refuses everything; folding would not help
    system = [{"role": "system", "content": SYSTEM}]
    lacks = set()
    if not takes(*system, asked):
        lacks.add(NO_SYSTEM)
        system = []
    if not takes(*system, {"role": "assistant", "content": GREETING}, asked):
        lacks.add(NO_GREETING)
    return frozenset(lacks)


def _rendered(tokenizer: Any, messages: Messages, add_generation_prompt: bool, **how: Any) -> Any:
    return tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=add_generation_prompt, return_dict=False, **how
    )


def _begins_with(messages: Messages, role: str) -> bool:
    first = next((message for message in messages if message["role"] != "system"), None)
    return first is not None and first["role"] == role
