"""Ids are those that serving saw and generated."""

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer
from trl.data_utils import common_prefix_length

from storage.errors import InvalidInput
from tests.support.examples import example
from trainer.dataset.template import prompt_ids
from trainer.dataset.tokenise import encode, tokenise
from trainer.errors import Interrupted


def test_a_prompt_ends_where_the_reply_begins(tokenizer: Any) -> None:
    text = tokenizer.decode(prompt_ids(tokenizer, example().prompt))
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_stored_ids_are_used_as_they_are(tokenizer: Any) -> None:
    # A reply cut by the token limit: no end token, and pieces that the tokenizer would have merged.
    cut = [tokenizer.convert_tokens_to_ids(letter) for letter in "The"]
    prompt, completion = encode(tokenizer, example(answer="The", token_ids=cut))
    assert completion == cut
    assert prompt == prompt_ids(tokenizer, example().prompt)
    assert tokenizer.eos_token_id not in completion


def test_a_cut_reply_without_ids_has_no_end_either(tokenizer: Any) -> None:
    prompt, whole = encode(tokenizer, example(answer="It is the"))
    assert encode(tokenizer, example(answer="It is the", cut=True)) == (prompt, whole[:-1])
    assert whole[-1] == tokenizer.eos_token_id


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=st.text(max_size=40), answer=st.text(min_size=1, max_size=40))
def test_replies_without_ids_are_split_as_trl_splits_them(tokenizer: Any, question: str, answer: str) -> None:
    row = example(question, answer)
    prompt, completion = encode(tokenizer, row)
    alone = tokenizer.apply_chat_template(row.prompt, add_generation_prompt=True, return_dict=False)
    both = tokenizer.apply_chat_template(row.prompt + row.completion, return_dict=False)
    shared = common_prefix_length(alone, both)
    # TRL trains on what the template writes after the end token, too; nothing is generated after it.
    assert (prompt, [*completion, *tokenizer.encode("\n")]) == (alone[:shared], both[shared:])
    assert completion[-1] == tokenizer.eos_token_id


def test_one_bos_and_one_eos_where_template_and_tokenizer_both_add_one(tokenizer: Any) -> None:
    eager = AutoTokenizer.from_pretrained(tokenizer.name_or_path, bos_token=tokenizer.pad_token)
    eager.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    eager.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{eager.bos_token} $A", special_tokens=[(eager.bos_token, eager.bos_token_id)]
    )
    assert eager("Why?")["input_ids"][0] == eager.bos_token_id, "the tokenizer adds one by itself"
    prompt, completion = encode(eager, example())
    assert (prompt[0], prompt.count(eager.bos_token_id)) == (eager.bos_token_id, 1)
    assert completion.count(eager.bos_token_id) == 0
    assert completion.count(eager.eos_token_id) == 1


def test_rows_that_cannot_be_trained_on_are_counted_with_the_reason(tokenizer: Any) -> None:
    long, empty = example("why " * 200, message_id="long"), example(answer="  ", message_id="empty")
    nothing = example(token_ids=[], message_id="nothing")
    rows, dropped = tokenise(tokenizer, [example(), long, empty, nothing], max_length=64)
    assert [row.example for row in rows] == [example(voted_at=rows[0].example.voted_at)]
    assert dropped == {"the prompt alone fills the 64 tokens of a row": 1, "the reply is empty": 2}
    tokens = len(prompt_ids(tokenizer, long.prompt))
    assert dropped.names == {
        "the prompt alone fills the 64 tokens of a row": [f"long ({tokens} tokens)"],
        "the reply is empty": ["empty", "nothing"],
    }


def test_a_conversation_that_the_template_begins_in_another_way_with_its_reply(tokenizer: Any) -> None:
    strange = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    strange.chat_template = "{{ messages|length }}: {{ messages[-1].content }}"
    rows, dropped = tokenise(strange, [example()], max_length=64)
    assert not rows, "without a prompt there is nothing to score the reply by"
    assert dropped.names == {"the chat template leaves no prompt before the reply": ["m"]}


def test_a_conversation_that_the_template_refuses(tokenizer: Any) -> None:
    strict = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    strict.chat_template = "{{ raise_exception('no system prompt, please') }}"
    with pytest.raises(InvalidInput, match="no system prompt, please"):
        prompt_ids(strict, example().prompt)
    rows, dropped = tokenise(strict, [example()], max_length=64)
    assert not rows
    assert dropped == {"the chat template refuses the conversation": 1}
    assert dropped.names == {"the chat template refuses the conversation": ["m (no system prompt, please)"]}


def test_a_row_has_the_label_and_the_chat_of_its_example(tokenizer: Any) -> None:
    disliked = dataclasses.replace(example(), label=False, chat_id="other")
    ((row,), _) = tokenise(tokenizer, [disliked], max_length=64)
    assert (row.label, row.chat_id) == (False, "other")


def test_it_can_be_interrupted_between_two_examples(tokenizer: Any) -> None:
    asked: list[int] = []

    def check() -> None:
        asked.append(len(asked))
        if len(asked) == 3:
            raise Interrupted("cancelled")

    read: list[int] = []
    many = (read.append(number) or example() for number in range(100))  # type: ignore[func-returns-value]
    with pytest.raises(Interrupted):
        tokenise(tokenizer, many, max_length=64, check=check)
    assert read == [0, 1, 2]
