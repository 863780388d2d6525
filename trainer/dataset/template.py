"""Renders conversations with a model's chat template, for serving, training and exports alike.

Templates differ in what they take. Some refuse or drop a system message, some a conversation that begins with
the assistant. What a template does not take is folded into what it does, so such a model reads everything.
Reasoning is in a later prompt only where the template puts it there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from storage.chats.conversation import BETWEEN
from storage.chats.reasoning_tags import THINK, opens, tag_in
from storage.chats.tools import DECLARED, for_template, has_tools, written_out
from storage.errors import InvalidInput
from storage.examples.example import Example
from storage.examples.messages import Message
from storage.exports.shapes import REASONING, ChatTemplate

Messages = Sequence[Mapping[str, str]]
# A Jinja template can raise its own refusals and any programming error of its author.
TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
NO_SYSTEM = "the chat template takes no system message: its text begins the user's first message"
NO_GREETING = "the chat template takes no greeting: an empty message of the user stands before it"
NO_REASONING = "the chat template knows no reasoning: the reply is trained on without it"
NO_END = "the chat template ends a reply with no token that ends generation: the tokenizer's is added"
NO_TOOLS = "the chat template has no place for tools"
# These two need no word: the model reads what its template means it to read.
NO_EARLIER_REASONING = "the chat template leaves reasoning out of later prompts"
NO_OWN_REASONING = "the chat template leaves reasoning out of the reply that it is of"
# No template holds these texts by itself.
SYSTEM, GREETING, THOUGHT = "Cedar marmot.", "Good morning, walrus.", "Seven herons."


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

    ends = tuple(tokenizer.convert_ids_to_tokens(list(reply_ends(tokenizer))))

    def text(messages: list[Message], add_generation_prompt: bool) -> str:
        found: str = render(tokenizer, messages, add_generation_prompt, tokenize=False)
        if not add_generation_prompt and found.rstrip().endswith(ends):
            found = found.rstrip()
        return found.removeprefix(bos) if added else found

    return ChatTemplate(text, bos if begins and not added else "")


def render(tokenizer: Any, messages: Messages, add_generation_prompt: bool, **how: Any) -> Any:
    """The messages, folded, as the template renders them. Raises InvalidInput if it refuses them."""
    said, tools = written_out(messages)
    found = folded(tokenizer, said)
    try:
        if has_tools(messages):
            if not _shows_tools(tokenizer, _template_key(tokenizer)):
                raise ValueError(NO_TOOLS)
            found = for_template(found)
        if REASONING in found[-1] and NO_OWN_REASONING in lacking(tokenizer):
            text = _as_generated(tokenizer, found, tools)
            return text if how else tokenizer(text, add_special_tokens=False)["input_ids"]
        return _rendered(tokenizer, found, add_generation_prompt, tools=tools or None, **how)
    except TEMPLATE_ERRORS as error:
        raise InvalidInput(
            f"The model's chat template refuses this conversation: {error}.", code="template_refused"
        ) from error


def ended(tokenizer: Any, completion: Sequence[int], *, cut: bool = False) -> list[int]:
    """A rendered reply, ended as a generated one is: with the first token that ends it, and nothing after it.

    Where the template writes no such token, it is the tokenizer's. One that was `cut` has no end.
    """
    said, tail = _tail(tokenizer, completion)
    if cut:
        return said
    ends = [place for place, token in enumerate(tail) if token in reply_ends(tokenizer)]
    return [*said, *tail[: ends[0] + 1]] if ends else [*said, *tail, tokenizer.eos_token_id]


def _tail(tokenizer: Any, completion: Sequence[int]) -> tuple[list[int], list[int]]:
    """A rendered reply's text, and the special tokens after it, without the white space among those."""
    special = reply_ends(tokenizer) | set(tokenizer.all_special_ids)
    place = len(completion)
    while place and (
        completion[place - 1] in special or not tokenizer.decode([completion[place - 1]]).strip()
    ):
        place -= 1
    first = next((at for at in range(place, len(completion)) if completion[at] in special), place)
    return list(completion[:first]), [token for token in completion[first:] if token in special]


def reply_ends(tokenizer: Any) -> frozenset[int]:
    """The tokens that end a reply, which load_tokenizer puts there; or else the tokenizer's own."""
    found: frozenset[int] = getattr(tokenizer, "reply_ends", frozenset([tokenizer.eos_token_id]))
    return found


def folded(tokenizer: Any, messages: Messages) -> list[Message]:
    """The messages as the template takes them; mostly the same."""
    lacks = lacking(tokenizer)
    found = [dict(message) for message in messages]
    for message in found[:-1] if NO_EARLIER_REASONING in lacks else ():
        message.pop(REASONING, None)
    if NO_REASONING in lacks and found:
        found[-1].pop(REASONING, None)
    if NO_SYSTEM in lacks and found and found[0]["role"] == "system":
        said = found.pop(0)["content"]
        if found and found[0]["role"] == "user":
            said += BETWEEN + found.pop(0)["content"]
        found.insert(0, {"role": "user", "content": said})
    if NO_GREETING in lacks and _begins_with(found, "assistant"):
        place = 1 if found[0]["role"] == "system" else 0
        found.insert(place, {"role": "user", "content": ""})
    return found


def what_was_folded(tokenizer: Any, example: Example) -> Iterator[str]:
    """A sentence for each thing that an example's row has otherwise than the example."""
    lacks = lacking(tokenizer)
    if NO_SYSTEM in lacks and example.prompt[0]["role"] == "system":
        yield NO_SYSTEM
    elif NO_GREETING in lacks and _begins_with(example.prompt, "assistant"):
        yield NO_GREETING
    if example.token_ids is None:
        if NO_REASONING in lacks and REASONING in example.completion[0]:
            yield NO_REASONING
        if NO_END in lacks:
            yield NO_END


def lacking(tokenizer: Any) -> frozenset[str]:
    """What the tokenizer's chat template does not take: the sentences above."""
    return _lacking(tokenizer, _template_key(tokenizer))


def _template_key(tokenizer: Any) -> str:
    return json.dumps([tokenizer.chat_template, _arguments(tokenizer), sorted(reply_ends(tokenizer))])


@lru_cache(maxsize=8)
def _lacking(tokenizer: Any, _template: str) -> frozenset[str]:
    asked = {"role": "user", "content": "Hello"}

    def shows(text: str, *messages: Mapping[str, str]) -> bool:
        try:
            return text in _rendered(tokenizer, messages, messages[-1] is asked, tokenize=False)
        except TEMPLATE_ERRORS:
            return False

    if not shows("Hello", asked):
        return frozenset()  # it refuses everything; folding would not help
    system = [{"role": "system", "content": SYSTEM}]
    reply = {"role": "assistant", "content": GREETING, REASONING: THOUGHT}
    lacks = set()
    if not shows(SYSTEM, *system, asked):
        lacks.add(NO_SYSTEM)
        system = []
    if not shows(GREETING, *system, {"role": "assistant", "content": GREETING}, asked):
        lacks.add(NO_GREETING)
    if not shows(THOUGHT, asked, reply, asked):
        lacks.add(NO_EARLIER_REASONING)
    if not shows(THOUGHT, asked, reply):
        prompt = _rendered(tokenizer, [asked], True, tokenize=False)
        knows = opens(prompt) or tag_in(str(tokenizer.chat_template))
        lacks.add(NO_OWN_REASONING if knows else NO_REASONING)
    if shows(GREETING, asked, reply):
        _, tail = _tail(tokenizer, _rendered(tokenizer, [asked, reply], False))
        if not reply_ends(tokenizer) & set(tail):
            lacks.add(NO_END)
    return frozenset(lacks)


@lru_cache(maxsize=8)
def _shows_tools(tokenizer: Any, _template: str) -> bool:
    """Whether the template shows a tool that is declared, called with an argument, and returns a text."""
    about = {"about": {"type": "string", "description": "What."}}
    tool = {
        "name": "look_up",
        "description": SYSTEM,
        "parameters": {"type": "object", "properties": about},
    }
    call = {"name": "look_up", "arguments": {"about": THOUGHT}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Hello"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "a1b2c3d4e", "type": "function", "function": call}],
        },
        {"role": "tool", "content": GREETING, "name": "look_up", "tool_call_id": "a1b2c3d4e"},
    ]
    tools = [{"type": "function", "function": tool}]
    try:
        text = _rendered(tokenizer, messages, True, tools=tools, tokenize=False)
    except TEMPLATE_ERRORS:
        return False
    return all(shown in text for shown in (SYSTEM, THOUGHT, GREETING))


def _as_generated(tokenizer: Any, messages: Sequence[Message], tools: list[Any]) -> str:
    """A conversation whose last reply has reasoning, as the model would have written it.

    Some templates open the reasoning in the generation prompt, and show a reply without any.
    """
    *before, reply = messages
    how: dict[str, Any] = {"tools": tools or None, "tokenize": False}
    prompt = _rendered(tokenizer, before, True, **how)
    said = reply["content"].strip()
    plain = _rendered(tokenizer, [*before, {"role": reply["role"], "content": said}], False, **how)
    end = plain[plain.rindex(said) + len(said) :]
    opened = opens(prompt)
    tag = opened or tag_in(str(tokenizer.chat_template)) or THINK
    text = tag.written(reply[REASONING], said)
    return str(prompt + (text.removeprefix(tag.open + tag.space) if opened else text) + end)


def _arguments(tokenizer: Any) -> dict[str, Any]:
    """The arguments of the setting `template_args`, which load_tokenizer puts there."""
    found: dict[str, Any] = getattr(tokenizer, "template_args", {})
    return found


def _rendered(tokenizer: Any, messages: Messages, add_generation_prompt: bool, **how: Any) -> Any:
    return tokenizer.apply_chat_template(
        list(messages),
        add_generation_prompt=add_generation_prompt,
        return_dict=False,
        **_arguments(tokenizer),
        **how,
    )


def _begins_with(messages: Messages, role: str) -> bool:
    first = next((message for message in messages if message["role"] not in ("system", DECLARED)), None)
    return first is not None and first["role"] == role
