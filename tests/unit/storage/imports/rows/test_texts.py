"""Texts that hold a whole conversation: read as one or refused, never somebody's words."""

import json

import pytest

from storage.imports.rows.options import ImportOptions
from tests.support.imported import reason, row

CHAT = [
    {"role": "user", "content": 'It\'s "here"\n'},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Sure?"},
]
PLAIN = ImportOptions(plain=True)


def prompt(text: str, options: ImportOptions = ImportOptions()) -> list[tuple[str, str]]:
    found = row({"prompt": text, "completion": "x", "label": True}, options)
    return [(turn.role, turn.content) for turn in found.turns[:-1]]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(CHAT),
        repr(CHAT),
        json.dumps(CHAT, indent=2),
        json.dumps({"messages": CHAT}),
        repr(CHAT[:1]),
    ],
)
def test_messages_in_a_text_are_messages(text: str) -> None:
    assert prompt(text) == [(turn["role"], turn["content"]) for turn in CHAT][: len(prompt(text))]
    assert prompt(text, PLAIN) == [("user", text)]


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant:", ["A", "B", "C"]),
        ("Human: A\n\nAssistant: B\n\nHuman: C\n\nAssistant: ", ["A", "B", "C"]),
        ("\n\nHuman: A: the Human: I said\n\nAssistant: B\n\nHuman: C", ["A: the Human: I said", "B", "C"]),
        ("A\n<extra_id_1>Assistant\nB\n\n<extra_id_1>User\nC\n<extra_id_1>Assistant\n", ["A", "B\n", "C"]),
        ("<extra_id_0>System\n\n<extra_id_1>User\nC", ["C"]),
    ],
)
def test_marked_texts_are_conversations(text: str, turns: list[str]) -> None:
    assert [said for _, said in prompt(text)] == turns
    assert [role for role, _ in prompt(text)] == ["user", "assistant", "user"][: len(turns)]


def test_a_reply_that_is_empty_in_a_marked_text_is_named() -> None:
    pair = {"chosen": "\n\nHuman: a\n\nAssistant: c", "rejected": "\n\nHuman: a\n\nAssistant:"}
    assert reason(pair) == "rejected is empty."


@pytest.mark.parametrize(
    "text",
    [
        "User: Hi\nAssistant: Hello\nUser: More",
        "Human: Hi\nAssistant:",
        "\n\nHuman: Hi\nAssistant: Hello\n\nAssistant: x",
        "<|im_start|>user\nHi<|im_end|>",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi",
        "<s>[INST] Hi [/INST]",
        "<start_of_turn>user\nHi",
        "<|user|>\nHi",
        "Read this.\n\nHuman: Hi\n\nAssistant:",
        "Below is an instruction.\n\n### Instruction:\nHi\n\n### Response:",
        "A chat. USER: Hi ASSISTANT:",
        "### Human: Hi\n### Assistant:",
        "<|im_start|>Hi",
        "<|start_of_role|>user<|end_of_role|>Hi",
        "<|header_start|>user<|header_end|>Hi",
        "Hello<|im_end|>",
        "Hello<|end|>",
        "Hello<eos>",
        "Bonjour</s>",
        '[{"role": "user", "content": "a"}',
        "[{'role': 'user', 'content': 'a'}\n {'role': 'assistant', 'content': 'b'}]",
        "[{'role': 'user', 'content': array(['a'], dtype=object)}]",
        "array([{'content': 'a', 'role': 'user'}], dtype=object)",
        "[HumanMessage(content='a', additional_kwargs={})]",
        "[ChatMessage(role='user', content='a')]",
        "[('user', 'a'), ('assistant', 'b')]",
    ],
)
def test_templates_and_printed_objects_are_refused(text: str) -> None:
    said = reason({"prompt": text, "completion": "x", "label": True})
    assert said.startswith("prompt holds ")
    assert "plain=true" in said
    assert prompt(text, PLAIN) == [("user", text)]
    messages = [{"role": "user", "content": text}]  # in a message it is what somebody wrote
    assert row({"prompt": messages, "completion": "x", "label": True}).turns[0].content == text


@pytest.mark.parametrize(
    "text",
    [
        "Human: what is it?",
        "[1, 2]",
        "{'a': 1}",
        "a < b | c",
        "xs <| map f |> sum",
        "[1, 'user']",
        "{'role': 'admin'}",
        "Assistant professors: how many?",
        "<s>old</s> new",
        "### Instruction:",
        "What does im_start do?",
    ],
)
def test_words_are_words(text: str) -> None:
    assert prompt(text) == [("user", text.removeprefix("Human: "))]
