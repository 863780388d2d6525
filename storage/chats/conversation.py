"""The shape of a conversation: one rule for /v1, the REST API, imports, training on a file and exports. Pure.

So the same messages give the same prompt whichever way they come, and every export can be imported again.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from storage.chats.reasoning import apart, written
from storage.chats.tools import CALLS, DECLARED, RESULT, RESULTS, TOOL_ROLES
from storage.errors import InvalidInput

# The name of each role here, by the names that others give it.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "ai": "assistant",
    "chatbot": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
TOOLS = (*CALLS, *RESULTS)
# The key of the text in each type of a message's parts.
PARTS = {None: "text", "text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
# The same for reasoning, in parts and beside the content.
THOUGHTS = {"thinking": "thinking", "think": "think", "reasoning": "text"}
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
BETWEEN = "\n\n"  # joins texts that become one message


class Turn(NamedTuple):
    role: str  # system, user, assistant; also those of `tools.py`
    content: str
    reasoning: str = ""  # of an assistant's, apart from its content

    @property
    def message(self) -> dict[str, str]:
        """As chat templates and other programs read it."""
        message = {"role": self.role, "content": self.content}
        return message | {"reasoning_content": self.reasoning} if self.reasoning else message


def known_role(given: Any, field: str) -> str:
    """The role by its name here; raises InvalidInput."""
    if isinstance(given, str) and (role := ROLES.get(given)) is not None:
        return role
    if given in TOOLS:
        raise InvalidInput(
            f"{field} is {given!r}, and tool messages are not supported; leave such conversations out.",
            field=field,
        )
    shown = repr(given[:80]) if isinstance(given, str) else "missing or no text"
    raise InvalidInput(f"{field} must be system, developer, user or assistant; it is {shown}.", field=field)


def joined_parts(content: Any) -> Any:
    """The text of a content that comes in parts; any other content as it is. Raises ValueError."""
    if not isinstance(content, list):
        return content
    texts = [part if isinstance(part, str) else _part(part) for part in content]
    if not texts:
        raise ValueError("it has no parts")
    return "".join(texts)


def thought(message: Mapping[str, Any]) -> str:
    """The reasoning that stands in a message beside its content."""
    found = (message.get(key) for key in THOUGHT_KEYS)
    return next((text for text in found if isinstance(text, str) and text.strip()), "")


def _part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get(PARTS.get(kind, "")) if isinstance(part, dict) and isinstance(kind, str | None) else None
    if isinstance(text, str):
        return text
    if isinstance(kind, str) and kind in THOUGHTS and isinstance(text := part.get(THOUGHTS[kind]), str):
        return written(text, "")
    what = f"a part of the type {kind[:80]!r}" if isinstance(kind, str) else "a part without a text"
    known = ", ".join(name for name in PARTS if name)
    raise ValueError(f"it holds {what}, and the model reads text alone (types {known})")


def shaped(turns: Iterable[Turn]) -> list[Turn]:
    """What the model reads before a reply: at most one system message, then both sides in turn.

    | given | becomes |
    |---|---|
    | several system messages, wherever they stand | one at the beginning, in their order |
    | an empty system message | nothing |
    | messages of one role in a row | one message |
    | an empty message beside one of its role | nothing |
    | an assistant's message first (a greeting) | the same |
    | the tools that were declared | after the system message |
    | messages that call tools, and what tools returned | each the same |
    | any other empty message | the same |

    Texts that become one are joined by a blank line. Reasoning is kept apart. The role `developer` is
    `system` (`ROLES`). What this returns stays as it is if given again. Raises InvalidInput unless the last
    message is the user's, or what a tool returned.
    """
    system: list[str] = []
    tools: list[Turn] = []
    said: list[tuple[str, list[Turn]]] = []
    for turn in map(without_reasoning, turns):
        if turn.role == "system":
            system.append(turn.content)
        elif turn.role == DECLARED:
            tools.append(turn)
        elif said and said[-1][0] == turn.role and turn.role not in TOOL_ROLES:
            said[-1][1].append(turn)
        else:
            said.append((turn.role, [turn]))
    if not said or said[-1][0] not in ("user", RESULT):
        roles = ", ".join(role for role, _ in said) or "none but the system's"
        raise InvalidInput(f"The last message before the reply must be the user's; there are {roles}.")
    one_system = [Turn("system", text)] if (text := _joined(system)) else []
    return (
        one_system
        + tools[:1]
        + [
            Turn(role, _joined([one.content for one in same]), _joined([one.reasoning for one in same]))
            for role, same in said
        ]
    )


def without_reasoning(turn: Turn) -> Turn:
    """The turn with its reasoning apart, if an assistant's content has some in it."""
    if turn.role != "assistant":
        return turn
    reasoning, content = apart(written(turn.reasoning, turn.content))
    return turn if (reasoning, content) == turn[2:0:-1] else Turn(turn.role, content, reasoning)


def _joined(texts: list[str]) -> str:
    return BETWEEN.join(text for text in texts if text)
