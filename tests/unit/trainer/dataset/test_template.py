"""Templates that do not take every conversation read everything all the same."""

import copy
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from storage.errors import InvalidInput
from tests.support.examples import example
from trainer.dataset.template import (
    NO_END,
    NO_GREETING,
    NO_SYSTEM,
    chat_template,
    folded,
    lacking,
    prompt_ids,
)
from trainer.dataset.tokenise import tokenise

# As Gemma's: no system role, and both sides in turn, the user first.
STRICT = """
{%- if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
# As Mistral's: a system message may come first; then the user.
USER_FIRST = """
{%- set said = messages[1:] if messages[0].role == 'system' else messages %}
{%- if messages[0].role == 'system' %}{{ '[SYS]' + messages[0].content }}{% endif %}
{%- for m in said %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}
{{- '[' + m.role + ']' + m.content }}
{%- endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"""
# Knows both sides alone, and says nothing of the others.
SILENT = """
{%- for m in messages if m.role != 'system' %}{{ '[' + m.role + ']' + m.content }}{% endfor %}
{%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"""
SYSTEM = {"role": "system", "content": "Be brief."}
GREETING = {"role": "assistant", "content": "Hello!"}
ASKED = {"role": "user", "content": "Why?"}
FOLDED: dict[str, tuple[str, set[str], list[list[dict[str, str]]], list[str]]] = {
    "strict": (
        STRICT,
        {NO_SYSTEM, NO_GREETING},
        [[SYSTEM, ASKED], [GREETING, ASKED], [SYSTEM, GREETING, ASKED], [ASKED, GREETING, ASKED]],
        [
            "u:Be brief.\n\nWhy?",
            "u:|a:Hello!|u:Why?",
            "u:Be brief.|a:Hello!|u:Why?",
            "u:Why?|a:Hello!|u:Why?",
        ],
    ),
    "user first": (
        USER_FIRST,
        {NO_GREETING},
        [[SYSTEM, ASKED], [GREETING, ASKED], [SYSTEM, GREETING, ASKED]],
        ["s:Be brief.|u:Why?", "u:|a:Hello!|u:Why?", "s:Be brief.|u:|a:Hello!|u:Why?"],
    ),
    "silent": (
        SILENT,
        {NO_SYSTEM},
        [[SYSTEM, ASKED], [GREETING, ASKED], [SYSTEM, GREETING, ASKED]],
        ["u:Be brief.\n\nWhy?", "a:Hello!|u:Why?", "u:Be brief.|a:Hello!|u:Why?"],
    ),
}


def with_template(tokenizer: Any, template: str) -> Any:
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


@pytest.mark.parametrize(("template", "lacks", "given", "expected"), FOLDED.values(), ids=FOLDED)
def test_what_a_template_does_not_take_is_folded(
    tokenizer: Any, template: str, lacks: set[str], given: list[Any], expected: list[str]
) -> None:
    other = with_template(tokenizer, template)
    assert lacking(other) & {NO_SYSTEM, NO_GREETING} == lacks
    shown = ["|".join(f"{m['role'][0]}:{m['content']}" for m in folded(other, one)) for one in given]
    assert shown == expected
    for one in given:
        text = other.decode(prompt_ids(other, one))
        assert all(message["content"] in text for message in one)
        assert prompt_ids(other, folded(other, one)) == prompt_ids(other, one)


def test_a_template_that_takes_everything_gets_everything(tokenizer: Any) -> None:
    assert not lacking(tokenizer) & {NO_SYSTEM, NO_GREETING, NO_END}
    for one in ([SYSTEM, ASKED], [GREETING, ASKED], [SYSTEM, GREETING, ASKED]):
        assert folded(tokenizer, one) == one


def test_folding_is_counted_and_said(tokenizer: Any) -> None:
    strict = with_template(tokenizer, STRICT)
    prompts = [[ASKED], [SYSTEM, ASKED], [SYSTEM, ASKED], [GREETING, ASKED]]
    rows, dropped = tokenise(strict, [example(prompt=prompt) for prompt in prompts], max_length=64)
    assert (len(rows), dropped) == (4, {})
    assert dropped.notes() == [f"In 2 examples {NO_SYSTEM}.", f"In 1 example {NO_GREETING}."]
    assert not tokenise(tokenizer, [example()], max_length=64)[1].notes()


def test_a_template_that_refuses_everything_is_not_folded_for(tokenizer: Any) -> None:
    closed = with_template(tokenizer, "{{ raise_exception('closed today') }}")
    assert not lacking(closed)
    with pytest.raises(InvalidInput, match="closed today"):
        prompt_ids(closed, [SYSTEM, ASKED])


@pytest.mark.parametrize("adds", [True, False], ids=["added by the tokenizer", "in the text"])
def test_a_text_that_is_tokenised_again_has_one_bos(tokenizer: Any, adds: bool) -> None:
    eager = AutoTokenizer.from_pretrained(tokenizer.name_or_path, bos_token=tokenizer.pad_token)
    eager.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    bos = (eager.bos_token, eager.bos_token_id)
    if adds:
        eager.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos[0]} $A", special_tokens=[bos]
        )
    template = chat_template(eager)
    text = template.render([SYSTEM, ASKED], True)
    assert (template.bos, text.startswith(bos[0])) == (("", False) if adds else (bos[0], True))
    assert eager(text)["input_ids"] == prompt_ids(eager, [SYSTEM, ASKED])
    assert chat_template(tokenizer).bos == ""
