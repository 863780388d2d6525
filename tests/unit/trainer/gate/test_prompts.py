"""The prompts that versions reply to."""

from typing import Any

from tests.support.examples import example
from trainer.dataset.tokenise import TokenisedExample, tokenise
from trainer.gate.prompts import gate_prompts, general_prompts
from trainer.taste.sampler import Prompt


def rows(tokenizer: Any, *prompts: str) -> list[TokenisedExample]:
    examples = [example(prompt, "Yes.", label=True, chat_id=str(n)) for n, prompt in enumerate(prompts)]
    return tokenise(tokenizer, examples, max_length=1024)[0]


def prompts(tokenizer: Any, count: int, *asked: str, longest: int = 900) -> list[Prompt]:
    return gate_prompts(
        rows(tokenizer, *asked), tokenizer, count=count, longest=longest, system_prompt="Be kind."
    )


def test_people_s_prompts_come_first_and_each_once(tokenizer: Any) -> None:
    found = [prompt.text for prompt in prompts(tokenizer, 5, "old", "twice", "new", "twice")]
    assert found == ["twice", "new", "old", *general_prompts()[:2]]
    assert [prompt.text for prompt in prompts(tokenizer, 2, "old", "new", "newest")] == ["newest", "new"]


def test_long_prompts_are_left_out(tokenizer: Any) -> None:
    long = "word " * 400
    found = prompts(tokenizer, 3, "short", long, longest=300)
    assert found[0].text == "short"
    assert all(len(prompt.ids) <= 300 for prompt in found)


def test_there_are_no_more_than_there_are(tokenizer: Any) -> None:
    assert len(prompts(tokenizer, 1000)) == len(general_prompts()) == len(set(general_prompts())) == 30
