"""Texts that hold a whole conversation: read as one, or refused, never taken as somebody's words.

HH-RLHF writes `Human:` and `Assistant:` after an empty line, HelpSteer `<extra_id_1>Role`; CSV files hold
messages as JSON or as Python prints them. Text with the marks of a chat template is refused: a model would
get them twice.
"""

import ast
import re
from typing import Any

from storage.chats.reasoning import apart, written
from storage.errors import InvalidInput
from storage.imports.files.json_records import LINE_DECODER, Repeated

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
SPEAKERS = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):", re.ASCII)
TRANSCRIPT = re.compile(r"^\s*(Human|User|Assistant|AI|Bot)\s?:", re.ASCII | re.MULTILINE)
EXTRA = re.compile(r"<extra_id_[01]>(System|User|Assistant)\n")
TEMPLATES = re.compile(
    r"<[|｜][A-Za-z][\w▁]{0,40}[|｜]>|\[INST\]|<start_of_turn>(?:user|model)|<end_of_turn>|"  # <|im_start|>
    r"(?:</s>|<eos>)\s*\Z|\A\s*<bos>|### Instruction:(?=[\s\S]*### Response:)|"
    r"### (?:Human|User):(?=[\s\S]*### (?:Assistant|Response):)|\bUSER: (?=[\s\S]*\bASSISTANT:)"
)
# Messages as JSON, or as programs print them: array([{'role': … of pandas, [HumanMessage(… of LangChain.
PRINTED = re.compile(
    r"\s*(?:array\()?\[?\s*\{(?=[\s\S]*['\"](?:role|from)['\"]\s*:)(?=[\s\S]*['\"](?:content|value)['\"]\s*:)|"
    r"\s*\[?\s*(?:Human|AI|System|Chat|Tool|User|Assistant)?Message\(\w+=|"
    r"\s*\[\s*[\[(]\s*['\"](?:system|user|human|assistant)['\"]\s*,"
)


def messages_in(text: str, name: str, role: str) -> list[Any] | None:
    """The messages that the text holds, or None if it is somebody's words, by `role`; raises InvalidInput."""
    start = text.lstrip()[:1]
    if start and start in "[{aHASCTUM" and (found := _written_out(text, name)) is not None:
        return found
    if EXTRA.search(text):
        return _extra(text)
    if (first := SPEAKERS.match(text)) and first[1] == "Human":
        said = _spoken(text)
        if any(TRANSCRIPT.search(message["content"]) for message in said):
            raise _refused(name, "a transcript", "one message each")
        # An open mark at the end of a prompt is for the reply; at the end of a reply, the reply is empty.
        return said[:-1] if role == "user" and said[-1] == {"role": "assistant", "content": ""} else said
    if (first := TRANSCRIPT.match(text)) and first[1] != "Assistant" and TRANSCRIPT.search(text, first.end()):
        raise _refused(name, "a transcript", "one message each")
    if HUMAN in text or ASSISTANT in text:
        raise _refused(name, "Human: and Assistant: in the middle of a text", "one message each")
    # The marks of reasoning in a reply are read as such.
    if (mark := TEMPLATES.search(written(*apart(text)) if role == "assistant" else text)) is not None:
        raise _refused(name, f"the marks of a chat template ({mark[0]})", "messages with role and content")
    return None


def _refused(name: str, what: str, remedy: str) -> InvalidInput:
    return InvalidInput(
        f"{name} holds {what}, which a model would get twice; export {remedy}, or say plain=true if they "
        "are somebody's words.",
        field=name,
    )


def _spoken(text: str) -> list[dict[str, str]]:
    """The messages of HH-RLHF's texts: each begins after an empty line."""
    marks = list(SPEAKERS.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        {"role": "user" if mark[1] == "Human" else "assistant", "content": text[mark.end() : end].strip()}
        for mark, end in zip(marks, ends, strict=True)
    ]


def _extra(text: str) -> list[dict[str, str]]:
    """HelpSteer's texts: what comes before the first mark is the user's; an empty last message is no turn."""
    first, *rest = EXTRA.split(text)
    said = [{"role": "user", "content": first.removesuffix("\n")}] if first.strip() else []
    for role, content in zip(rest[::2], rest[1::2], strict=True):
        said.append({"role": role.lower(), "content": content.removesuffix("\n")})
    return [turn for turn in said[:-1] if turn["content"]] + [turn for turn in said[-1:] if turn["content"]]


def _written_out(text: str, name: str) -> list[Any] | None:
    """Messages as JSON, or as Python prints them."""
    begins = PRINTED.match(text)
    for read in (LINE_DECODER.decode, ast.literal_eval) if begins else ():
        try:
            value = read(text)
        except Repeated as error:
            raise InvalidInput(f"{name} cannot be read: {error}", field=name) from error
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, dict) and len(value) == 1 and value.keys() <= {"messages", "conversations"}:
            (value,) = value.values()
        messages = value if isinstance(value, list) else [value]
        if all(isinstance(m, dict) and m.keys() & {"role", "from"} for m in messages):
            return messages
    if begins:
        raise _refused(name, "messages as a program printed them", "them as JSON")
    return None
