"""The shapes of exported rows: their columns, and how an example fills them.

Every column has a value of one type in every row; unknown text is empty. `datasets` reads JSON in blocks and
fails if a column is null in one block and text in another.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from storage.chats.reasoning import written
from storage.chats.tools import written_out
from storage.examples.example import Example
from storage.examples.messages import Message, common_prefix
from storage.files.installation_key import pseudonym

Row = dict[str, Any]


@dataclass(frozen=True)
class ChatTemplate:
    """Renders (messages, add_generation_prompt) as text, as a tokenizer's apply_chat_template does.

    `bos` is the token that every text begins with; empty where there is none, or the tokenizer adds it.
    """

    render: Callable[[list[Message], bool], str]
    bos: str = ""


class Kind(Enum):
    """What a column holds."""

    TEXT = "text"
    FLAG = "true or false"
    NUMBER = "a number"
    TAGS = "a list of texts"
    MESSAGES = "a list of role and content"
    REASONED = "a list of role, content and reasoning_content"
    TOOLED = "such a list with tool_calls, name and tool_call_id"
    TURNS = "a list of from and value"
    CHAT = "a list of role and content, with reasoning in the text"
    INPUT = "OpenAI's input: such a list under messages, tools and parallel_tool_calls"
    LIST = "a list of one text"


PROVENANCE = {
    "message_id": Kind.TEXT,
    "chat_id": Kind.TEXT,
    "user_hash": Kind.TEXT,
    "model_version": Kind.TEXT,
    "voted_at": Kind.TEXT,
    "tags": Kind.TAGS,
    "comment": Kind.TEXT,
    "correction": Kind.TEXT,
    "finish_reason": Kind.TEXT,
    "source": Kind.TEXT,
}
SIDES = ("chosen", "rejected")
COLUMNS: dict[str, dict[str, Kind]] = {
    "kto": {"prompt": Kind.MESSAGES, "completion": Kind.MESSAGES, "label": Kind.FLAG, **PROVENANCE},
    "kto-text": {"prompt": Kind.TEXT, "completion": Kind.TEXT, "label": Kind.FLAG, **PROVENANCE},
    "pairs": {
        "prompt": Kind.MESSAGES,
        "chosen": Kind.MESSAGES,
        "rejected": Kind.MESSAGES,
        **{f"{side}_{name}": kind for side in SIDES for name, kind in PROVENANCE.items()},
    },
    "sharegpt": {"conversations": Kind.TURNS, "kto_tag": Kind.FLAG, **PROVENANCE},
    "swift": {"messages": Kind.CHAT, "label": Kind.FLAG, **PROVENANCE},
    "openai": {"input": Kind.INPUT, "preferred_output": Kind.CHAT, "non_preferred_output": Kind.CHAT},
    "argilla": {
        "id": Kind.TEXT,
        "status": Kind.TEXT,
        "prompt": Kind.CHAT,
        "response": Kind.TEXT,
        **{f"vote.responses{part}": Kind.LIST for part in ("", ".users", ".status")},
        **PROVENANCE,
    },
}
PAIRED = ("pairs", "openai")  # a reply voted up beside one voted down
REASONING = "reasoning_content"
CUT = "length"  # the finish_reason of a reply that ended at a token limit


WITH_TOOLS = ("kto", "kto-text", "pairs")  # the shapes that can say what tools were declared and called
# The keys of a message in a column of these kinds, besides role and content, and what stands for nothing.
MORE_KEYS: dict[Kind, Row] = {
    Kind.REASONED: {REASONING: ""},
    Kind.TOOLED: {REASONING: "", "tool_calls": [], "name": "", "tool_call_id": ""},
}


def columns_of(shape: str, *, reasoned: bool, tooled: bool, shared: bool) -> dict[str, Kind]:
    """The columns of a shape.

    If `reasoned` or `tooled`, messages have more keys (MORE_KEYS). If `shared`, each vote has its share of a
    vote on the whole chat, which is 1 for a vote on the reply alone.
    """
    columns = COLUMNS[shape]
    if shared:
        columns = columns | {
            name.replace("correction", "share"): Kind.NUMBER
            for name in columns
            if name.endswith("correction")
        }
    if tooled and shape in WITH_TOOLS and shape != "kto-text":
        columns = {"tools": Kind.TEXT, **columns}
        return {name: Kind.TOOLED if kind is Kind.MESSAGES else kind for name, kind in columns.items()}
    if not reasoned:
        return columns
    return {name: Kind.REASONED if kind is Kind.MESSAGES else kind for name, kind in columns.items()}


def filled(row: Row, columns: dict[str, Kind]) -> Row:
    """The row as its columns are: every message has the same keys, and tools stand in their own column."""
    if "tools" in columns:
        row = {"tools": "[]", **row}
        row["prompt"], tools = written_out(row["prompt"])
        row["tools"] = json.dumps(tools, ensure_ascii=False)
    return {
        name: [MORE_KEYS[kind] | message for message in row[name]] if kind in MORE_KEYS else row[name]
        for name, kind in columns.items()
    }


# LLaMA-Factory's default names of the speakers.
SHAREGPT_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}


@dataclass(frozen=True)
class Shaper:
    """Turns examples into rows; `salt` keys the pseudonyms (see storage.files.installation_key)."""

    salt: bytes
    template: ChatTemplate | None = None

    @property
    def bos(self) -> str:
        return self.template.bos if self.template is not None else ""

    def row(self, shape: str, *examples: Example) -> Row:
        """The row of one example, or of a reply voted up and one voted down in the shapes of PAIRED."""
        if shape in PAIRED:
            up, down = examples
            return self._pair(shape, up, down)
        (example,) = examples
        row: Row = {"prompt": example.prompt, "completion": example.completion, "label": example.label}
        both = example.prompt + example.completion
        if shape == "kto-text":
            assert self.template is not None
            # The completion begins where the rendered prompt and the rendered conversation diverge: some
            # templates render a prompt differently alone than before a reply.
            text = self.template.render(both, False)
            start = common_prefix(self.template.render(example.prompt, True), text)
            row |= {"prompt": text[:start], "completion": text[start:]}
        elif shape == "sharegpt":
            # LLaMA-Factory reads reasoning in the text, as the model wrote it.
            turns = [
                {"from": SHAREGPT_SPEAKERS[m["role"]], "value": written(m.get(REASONING, ""), m["content"])}
                for m in both
            ]
            row = {"conversations": turns, "kto_tag": example.label}
        elif shape == "swift":
            row = {"messages": _chat(both), "label": example.label}
        elif shape == "argilla":
            person = pseudonym(self.salt, example.user_id)
            row = {
                "id": f"{example.message_id}-{person[:12]}",
                "status": "completed",
                "prompt": _chat(example.prompt),
                "response": _chat(example.completion)[0]["content"],
                "vote.responses": ["up" if example.label else "down"],
                "vote.responses.users": [person],
                "vote.responses.status": ["submitted"],
            }
        return row | self._provenance(example)

    def _pair(self, shape: str, up: Example, down: Example) -> Row:
        """TRL's conversational preference with an explicit prompt, or OpenAI's."""
        if shape == "openai":
            asked = {"messages": _chat(up.prompt), "tools": [], "parallel_tool_calls": True}
            replies = {"preferred_output": up, "non_preferred_output": down}
            return {"input": asked} | {name: _chat(one.completion) for name, one in replies.items()}
        row: Row = {"prompt": up.prompt, "chosen": up.completion, "rejected": down.completion}
        for side, example in zip(SIDES, (up, down), strict=True):
            row |= {f"{side}_{name}": value for name, value in self._provenance(example).items()}
        return row

    def _provenance(self, example: Example) -> Row:
        return {
            "message_id": example.message_id,
            "chat_id": example.chat_id,
            "user_hash": pseudonym(self.salt, example.user_id),
            "model_version": example.model_version or "",
            "voted_at": example.voted_at.isoformat(timespec="microseconds"),
            "tags": example.tags,
            "comment": example.comment or "",
            "correction": example.correction or "",
            "share": example.share or 1.0,
            "finish_reason": CUT if example.cut else "",
            "source": example.source,
        }


def _chat(messages: list[Message]) -> list[dict[str, str]]:
    """Role and content alone; reasoning stands in the text, as the model wrote it."""
    return [
        {"role": one["role"], "content": written(one.get(REASONING, ""), one["content"])} for one in messages
    ]
