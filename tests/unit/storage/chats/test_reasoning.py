"""What a model thought, apart from what it replied, whole and in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.chats.reasoning import Parts, Reasoning, Splitter, apart, written
from storage.chats.reasoning_tags import TAGS, THINK, Tag, opens, tag_in

THOUGHT = '<details type="reasoning" done="true" duration="2">\n<summary>Thought for 2 seconds</summary>\n'
TEXTS: dict[str, tuple[str, tuple[str, str]]] = {
    "none": (" 4\n", ("", " 4\n")),
    "closed": ("<think>\nTwo and two.\n</think>\n\n4", ("Two and two.", "4")),
    "closed after space": ("\n <think>a</think>b", ("a", "b")),
    "cut off": ("<think>\nTwo and two make", ("Two and two make", "")),
    "cut off in the tag": ("<think>Two</thi", ("Two</thi", "")),
    "nothing but a part of a tag": ("<thi", ("", "<thi")),
    "orphaned": ("Two and two.\n</think>\n\n4", ("Two and two.", "4")),
    "orphaned in a line": ("Two.</think>4", ("Two.", "4")),
    "orphaned and empty": ("</think>4", ("", "4")),
    "empty": ("<think>\n\n</think>\n\nhi", ("", "hi")),
    "two blocks": ("<think>a</think>\n<think>b</think>\nc", ("a\n\nb", "c")),
    "nested": ("<think>a<think>b</think>c</think>d", ("abc", "d")),
    "opened twice": ("<think>\n<think>\na</think>b", ("a", "b")),
    "closed twice": ("<think>a</think>\n</think>b", ("a", "b")),
    "nested and unfinished": ("<think>a<think>b</think>\n4", ("ab", "4")),
    "quoted in the reply": ("Write `<think>` and `</think>`.", ("", "Write `<think>` and `</think>`.")),
    "quoted in the reasoning": ('<think>a "</think>" b</think>c', ('a "</think>" b', "c")),
    "after a quote": ('<think>say "yes"</think>c', ('say "yes"', "c")),
    "later in the reply": ("The tag <think> opens.", ("", "The tag <think> opens.")),
    "of another kind inside": ("<thinking>a <think> b</thinking>c", ("a  b", "c")),
    "in backticks with more": ("Say `x </think>` here.", ("", "Say `x </think>` here.")),
    "in a block of code": ("```xml\n<thinking>\n```", ("", "```xml\n<thinking>\n```")),
    "channels": (
        "<|channel|>analysis<|message|>Two.<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>",
        ("Two.", "4"),
    ),
    "channels of a reply alone": ("<|channel|>final<|message|>4<|return|>", ("", "4")),
    "a channel before others": (
        "<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant<|channel|>analysis<|message|>Two.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>4",
        ("Two.", "Wait.\n\n4"),
    ),
    "an end of Phi's": ("4<|end|>", ("", "4<|end|>")),
    "a solution": (
        "<|begin_of_thought|>a<|end_of_thought|>\n\n<|begin_of_solution|>b<|end_of_solution|>",
        ("a", "b"),
    ),
    "in code": ("```\n</think>\n```", ("", "```\n</think>\n```")),
    "a section": (THOUGHT + "> Two and two.\n> Four.\n</details>\n4", ("Two and two.\nFour.", "4")),
    "a section with a quoted end": (
        THOUGHT + "> Write\n> </details>\n> so.\n</details>\n4",
        ("Write\n</details>\nso.", "4"),
    ),
    "a section, escaped": (THOUGHT + "&gt; a &lt;b&gt;\n</details>\n4", ("a <b>", "4")),
    "a section in a section": (
        THOUGHT + "a\n<details>\nb\n</details>\nc\n</details>\n4",
        ("a\n<details>\nb\n</details>\nc", "4"),
    ),
    "a section without an end": (THOUGHT + "> Two and", ("Two and", "")),
    "a section in a line": ('<details type="reasoning">a</details>4', ("a", "4")),
    "another section": ("<details>x</details>", ("", "<details>x</details>")),
}


@pytest.mark.parametrize(("text", "parts"), TEXTS.values(), ids=TEXTS)
def test_reasoning_is_kept_apart(text: str, parts: tuple[str, str]) -> None:
    assert apart(text) == parts
    assert apart(written(*parts)) == parts


@pytest.mark.parametrize("tag", TAGS, ids=lambda tag: tag.open)
def test_every_models_tags(tag: Tag) -> None:
    assert apart(tag.written("Two and two.", "4")) == ("Two and two.", "4")
    assert apart(f"Two.{tag.alone}4") == ("Two.", "4")
    assert apart(f"{tag.open}Two and two") == ("Two and two", "")
    assert apart(f"{tag.open}a{tag.open}b{tag.close}c{tag.close}d") == ("abc", "d")
    assert apart(f"Two.{tag.close}4", opened=tag) == ("Two.", "4")
    assert apart(f"Write `{tag.open}` and `{tag.close}`.")[0] == ""
    assert opens(f"assistant\n{tag.open}\n") is tag
    assert tag_in(f"{{{{ '{tag.open}' }}}}") is tag


def test_a_prompt_may_have_opened_the_reasoning() -> None:
    assert opens("<|im_start|>assistant\n<think>\n")
    assert not opens("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert apart("a\n</think>\nb", opened=THINK) == ("a", "b")
    assert apart("cut off", opened=THINK) == ("cut off", "")
    assert apart("<think>a</think>b", opened=THINK) == ("a", "b")


def streamed(pieces: list[str], opened: Tag | None) -> tuple[list[str], Parts]:
    splitter = Splitter(opened=opened)
    found = [out for piece in pieces for out in splitter.add(piece)]
    return [*found, *splitter.flush()], splitter.parts


MARKS = [mark for tag in TAGS for mark in (tag.open, tag.close, *tag.before, *tag.after)]
SNIPPETS = [*MARKS[2:], *4 * MARKS[:2], "<th", "ink>", "</", "think>", "`", '"', " ", "\n", "a", "b c", "<"]
PIECES = st.lists(st.sampled_from(SNIPPETS), max_size=12)


@given(PIECES, st.sampled_from([None, *TAGS]))
def test_pieces_give_what_the_whole_gives(pieces: list[str], opened: Tag | None) -> None:
    text = "".join(pieces)
    found, parts = streamed(pieces, opened)
    letters, parts_by_letter = streamed(list(text), opened)
    assert parts_by_letter == parts
    for out in (found, letters):
        assert "".join(piece for piece in out if not isinstance(piece, Reasoning)) == parts.reply
    if parts.reasoning and not opened:  # otherwise there may be an orphaned tag, which shows at the end only
        assert apart(text) == parts


@given(PIECES)
def test_what_is_apart_stays_so(pieces: list[str]) -> None:
    parts = apart("".join(pieces))
    assert apart(written(*parts)) == parts


def test_a_piece_is_passed_on_at_once() -> None:
    splitter = Splitter(opened=THINK)
    assert list(splitter.add("Let me")) == ["Let me"]
    assert list(splitter.add(" see.\n</th")) == [" see.\n"]
    assert list(splitter.add("ink>\n\n4")) == ["4"]
    assert list(splitter.add("2")) == ["2"]
    assert splitter.parts == ("Let me see.", "42")
