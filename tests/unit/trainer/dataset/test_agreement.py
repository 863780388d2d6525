"""Serving, training, text exports and TRL's own rendering read the same tokens, or differ as named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trl.data_utils import common_prefix_length

from storage.chats.reasoning import apart
from storage.chats.reasoning_tags import THINK, opens, tag_in
from storage.chats.tools import has_tools
from storage.examples.example import Example
from storage.exports.shapes import Shaper, columns_of, filled
from tests.support.chat_templates import CHATML, ENDLESS, LLAMA_3, QWEN_3, R1, SEED, with_template, with_tools
from tests.support.examples import example
from tests.support.odd_conversations import Messages
from tests.support.tool_calls import ROWS
from trainer.dataset.template import NO_END, NO_REASONING, chat_template, folded, prompt_ids
from trainer.dataset.tokenise import encode, tokenise
from trainer.offline.rows import read_rows

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
EARLIER = [
    {"role": "assistant", "content": "4", "reasoning_content": "Two and two."},
    {"role": "user", "content": "So?"},
]
PROMPTS = {"one question": ASKED, "after a reply with reasoning": ASKED + EARLIER}
TEMPLATES = {"ChatML": CHATML, "Llama 3": LLAMA_3, "R1": R1, "Qwen 3": QWEN_3, "Seed": SEED}
THINKS = (R1, QWEN_3, SEED)
# What TRL's rendering of a row of the shape kto has beyond what was generated, by template.
AFTER_THE_END = {CHATML: "\n", QWEN_3: "\n"}


def served(tokenizer: Any, prompt: list[dict[str, str]], reasoning: str, reply: str) -> Example:
    """The vote on a reply as serving stores it: generated ids, and its text apart from its reasoning."""
    rendered = tokenizer.decode(prompt_ids(tokenizer, prompt))
    tag = tag_in(tokenizer.chat_template) or THINK
    text = tag.written(reasoning, reply) if reasoning else reply
    text = text.removeprefix(f"{tag.open}\n") if opens(rendered) else text
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    thought, said = apart(text, opened=opens(rendered))
    completion = {"role": "assistant", "content": said}
    if thought:
        completion["reasoning_content"] = thought
    return example(prompt=prompt, completion=[completion], token_ids=ids)


def trained(tokenizer: Any, row: Example) -> list[int]:
    prompt, completion = encode(tokenizer, row)
    return prompt + completion


def trl_ids(
    tokenizer: Any, asked: Messages, replied: Messages, tools: list[Any] | None = None
) -> tuple[list[int], list[int]]:
    """As TRL's KTOTrainer tokenises a conversational row."""
    how = {"return_dict": False, "tools": tools, **tokenizer.template_args}
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, **how)
    both = tokenizer.apply_chat_template(asked + replied, **how)
    shared = common_prefix_length(prompt, both)
    return prompt[:shared], both[shared:]


def text_ids(tokenizer: Any, row: Example) -> list[int]:
    """The ids of a row of the shape kto-text, as TRL tokenises texts."""
    shaped = Shaper(b"s" * 32, chat_template(tokenizer)).row("kto-text", row)
    ids: list[int] = tokenizer(shaped["prompt"] + shaped["completion"])["input_ids"]
    return ids


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_reply_has_the_same_ids_everywhere(
    tokenizer: Any, template: str, prompt: list[dict[str, str]]
) -> None:
    model = with_template(tokenizer, template)
    live = served(model, prompt, "Two and two." if template in THINKS else "", "4 it is.")
    generated = prompt_ids(model, prompt) + list(live.token_ids or [])
    imported = replace(live, token_ids=None)
    for row in (live, imported):
        assert trained(model, row) == generated
        assert text_ids(model, row) == generated
    trl_prompt, trl_completion = trl_ids(model, live.prompt, live.completion)
    if template in (
        R1,
        SEED,
    ):  # named in docs/conversations.md: such a template shows no reasoning, so TRL has none
        assert model.decode(trl_completion) == "4 it is.<|im_end|>"
    else:
        end = AFTER_THE_END.get(template, "")
        assert model.decode(trl_prompt + trl_completion) == model.decode(generated) + end


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("record", ROWS, ids=range(len(ROWS)))
def test_so_it_has_after_tools(tokenizer: Any, template: str, record: dict[str, Any], tmp_path: Path) -> None:
    (file := tmp_path / "rows.jsonl").write_text(json.dumps(record))
    (imported,) = read_rows(file).examples
    model = with_template(tokenizer, with_tools(template))
    (reply,) = imported.completion
    live = (
        served(model, imported.prompt, "", reply["content"])
        if template not in THINKS
        else served(model, imported.prompt, "Cold.", reply["content"])
    )
    generated = prompt_ids(model, imported.prompt) + list(live.token_ids or [])
    for row in (live, replace(live, token_ids=None)):
        assert trained(model, row) == generated
        assert text_ids(model, row) == generated
    shaped = Shaper(b"s" * 32).row("kto", live)
    row = filled(shaped, columns_of("kto", reasoned=True, tooled=has_tools(live.prompt), shared=False))
    trl_prompt, trl_completion = trl_ids(
        model, row["prompt"], row["completion"], json.loads(row.get("tools", "[]"))
    )
    if template in (R1, SEED):
        assert model.decode(trl_completion) == f"{reply['content']}<|im_end|>"
    else:
        end = AFTER_THE_END.get(template, "")
        assert model.decode(trl_prompt + trl_completion) == model.decode(generated) + end


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_no_prompt_has_reasoning_that_the_template_leaves_out(tokenizer: Any, template: str) -> None:
    model = with_template(tokenizer, template)
    assert "Two and two." not in model.decode(prompt_ids(model, ASKED + EARLIER))
    assert all("reasoning_content" not in message for message in folded(model, ASKED + EARLIER))
    keeping = with_template(tokenizer, CHATML.replace("m.content", "(m.reasoning_content or '') + m.content"))
    assert "Two and two.4" in keeping.decode(prompt_ids(keeping, ASKED + EARLIER))


def test_reasoning_that_a_template_does_not_know_is_left_out_and_counted(tokenizer: Any) -> None:
    model = with_template(tokenizer, CHATML)
    rated = replace(served(model, ASKED, "Two and two.", "4"), token_ids=None)
    (row,), dropped = tokenise(model, [rated], max_length=256)
    assert model.decode(row.completion_ids) == "4<|im_end|>"
    assert dropped.notes() == [f"In 1 example {NO_REASONING}."]
    live = served(model, ASKED, "Two and two.", "4")
    (row,), dropped = tokenise(model, [live], max_length=256)
    assert (row.completion_ids, dropped.notes()) == (live.token_ids, []), "it was generated so"


def test_a_template_that_never_ends_a_reply(tokenizer: Any) -> None:
    model = with_template(tokenizer, ENDLESS)
    rated = [replace(served(model, ASKED, "", f"{number}"), token_ids=None) for number in range(3)]
    rows, dropped = tokenise(model, rated, max_length=256)
    assert [model.decode(row.completion_ids) for row in rows] == [f"{n}<|im_end|>" for n in range(3)]
    assert dropped.notes() == [f"In 3 examples {NO_END}."]


def test_arguments_of_the_template_are_used_everywhere(tokenizer: Any) -> None:
    thinking, plain = (
        with_template(tokenizer, QWEN_3),
        with_template(tokenizer, QWEN_3, enable_thinking=False),
    )
    empty = "<think>\n\n</think>\n\n"
    assert plain.decode(prompt_ids(plain, ASKED)) == thinking.decode(prompt_ids(thinking, ASKED)) + empty
    live = served(plain, ASKED, "", "4")
    generated = prompt_ids(plain, ASKED) + list(live.token_ids or [])
    for row in (live, replace(live, token_ids=None)):
        assert trained(plain, row) == text_ids(plain, row) == generated
