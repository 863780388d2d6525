"""OpenAssistant's conversations, as messages that name their parents, or as trees of replies.

Siblings are ranked: of several ranked replies the best is a thumb up and the worst a thumb down. With
`score_column=emojis` the people's +1 and -1 are votes instead, with `score_column=quality` that label.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from storage.chats.conversation import Turn
from storage.errors import InvalidInput
from storage.imports.files.records import MOST_VALUES, kind_of
from storage.imports.formats.apps.trees import by_id, path_to
from storage.imports.rows.cells import read_list, read_note, read_number, read_time, shown
from storage.imports.rows.fields import Fields
from storage.imports.rows.format import Columns, Format, Rows, Sample, by_score
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped, ImportedRow
from storage.imports.rows.turns import checked

RANK, EMOJIS, QUALITY = "rank", "emojis", "quality"
ROLES = {"prompter": "user", "assistant": "assistant"}
THUMBS = {"+1", "-1"}
GROUP = "message_tree_id"


def flat_rows(fields: Fields) -> Rows:
    """The messages of one tree, which stand in neighbouring rows."""
    messages = fields.get("rows")
    if not isinstance(messages, list):
        messages = [dict(fields)]
    yield from _rows(by_id(messages, "message_id"), fields)


def tree_rows(fields: Fields) -> Rows:
    root = fields.get("prompt")
    if not isinstance(root, Mapping):
        raise InvalidInput(f"prompt must be a message with replies, not {kind_of(root)}.", field="prompt")
    yield from _rows({str(one.get("message_id")): one for one in _below(root)}, fields)


def _below(root: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The messages of the tree, each with its parent's id."""
    waiting: list[tuple[Any, Any]] = [(root, None)]
    while waiting:
        message, parent = waiting.pop()
        if not isinstance(message, Mapping):
            raise InvalidInput(f"replies must be messages, not {kind_of(message)}.", field="prompt")
        yield {**message, "parent_id": parent}
        replies = read_list(message.get("replies"), "replies")
        waiting += [(reply, message.get("message_id")) for reply in replies][::-1]


def _rows(messages: Mapping[str, Any], fields: Fields) -> Rows:
    options = fields.options
    by = options.score_column or RANK
    if by != EMOJIS and any(
        _pairs(one.get(EMOJIS), "name", "count").keys() & THUMBS for one in messages.values()
    ):
        fields.note(EMOJIS)
    if by not in (RANK, EMOJIS, QUALITY):
        raise InvalidInput(
            f"score_column must be {RANK}, {EMOJIS} or {QUALITY} here, not {shown(by)}.", field="score_column"
        )
    found = total = 0
    for message in messages.values():
        if message.get("role") not in [*ROLES]:
            raise InvalidInput(
                f"role must be prompter or assistant, not {shown(message.get('role'))}.", field="role"
            )
        if message["role"] != "assistant" or str(message.get("deleted")).casefold() == "true":
            continue
        labels = list(_labels(message, messages, by, options))
        votes = [label for label in labels if isinstance(label, bool)]
        yield from (label for label in labels if isinstance(label, Dropped))
        if not votes:
            continue
        path = path_to(messages, message["message_id"], "the tree", "parent_id")
        turns = checked([Turn(ROLES[one["role"]], str(one.get("text") or "")) for one in path], "text")
        found, total = found + len(votes), total + len(votes) * len(path)
        if total > MOST_VALUES:
            raise InvalidInput(
                f"The tree gives rows of more than {MOST_VALUES} messages; split it.", field="rows"
            )
        at = read_time(message.get("created_date"), "created_date")
        for number, label in enumerate(votes):
            ballot = (str(message["message_id"]), f"{number}") if by == EMOJIS else None
            yield ImportedRow(
                turns,
                label,
                model=read_note(message.get("model_name"), "model_name"),
                voted_at=at,
                ballot=ballot,
            )
    if not found:
        yield Dropped("a tree without a rated reply")


def _labels(
    message: Mapping[str, Any], messages: Mapping[str, Any], by: str, options: ImportOptions
) -> Iterator[bool | Dropped]:
    """The thumbs of one reply."""
    if by == EMOJIS:
        counts = _pairs(message.get("emojis"), "name", "count")
        yield from [True] * int(counts.get("+1", 0)) + [False] * int(counts.get("-1", 0))
    elif by == QUALITY:
        value = _pairs(message.get("labels"), "name", "value").get(QUALITY)
        if value is not None:
            yield by_score(read_number(value, QUALITY), QUALITY, options)
    elif (rank := message.get("rank")) is not None:
        rank = read_number(rank, RANK)
        ranks = [
            read_number(one[RANK], RANK)
            for one in messages.values()
            if one.get("parent_id") == message.get("parent_id") and one.get("rank") is not None
        ]
        if len(ranks) < 2:
            yield Dropped("a reply that was ranked alone")
        elif rank in (min(ranks), max(ranks)):
            yield bool(rank == min(ranks))
        else:
            yield Dropped("ranked in between")


def _pairs(value: Any, key: str, held: str) -> dict[Any, Any]:
    """{"name": [...], "count": [...]} of the flat files, or {"name": {"value": ...}} of the trees."""
    if not isinstance(value, Mapping):
        return {}
    names, held_values = value.get(key), value.get(held)
    if isinstance(names, list) and isinstance(held_values, list):
        return dict(zip(names, held_values, strict=False))
    return {name: one.get(held) if isinstance(one, Mapping) else one for name, one in value.items()}


def _is_flat(record: Columns, _options: ImportOptions) -> bool:
    rows = record.get("rows")  # as the reader brings them together
    first = rows[0] if isinstance(rows, list) and rows else record
    return isinstance(first, Mapping) and first.keys() >= {"message_id", GROUP, "parent_id", "role", "text"}


def _is_tree(record: Columns, _options: ImportOptions) -> bool:
    prompt = record.get("prompt")
    return GROUP in record and isinstance(prompt, Mapping) and "replies" in prompt


def _reply(id: str, text: str, rank: int) -> dict[str, Any]:
    return {"message_id": id, "text": text, "role": "assistant", "rank": rank}


FLAT = Format(
    "oasst",
    "OASST's messages: message_id, parent_id, message_tree_id, role, text",
    "of ranked replies to one message the best is a thumb up, the worst a thumb down; the messages of a "
    "tree stand "
    "in neighbouring rows. `score_column=emojis` takes +1 and -1 as votes, `score_column=quality` that label",
    _is_flat,
    flat_rows,
    (
        Sample(
            "the rows of one tree",
            {
                "rows": [
                    {
                        "message_id": "a",
                        "parent_id": None,
                        GROUP: "a",
                        "role": "prompter",
                        "text": "Name a sea.",
                    },
                    {**_reply("b", "The North Sea.", 0), "parent_id": "a", GROUP: "a"},
                    {**_reply("c", "A lake.", 1), "parent_id": "a", GROUP: "a"},
                ]
            },
        ),
    ),
    ("score_column", "up_from", "down_to"),
    group=GROUP,
)
TREES = Format(
    "oasst-trees",
    "OASST's trees: message_tree_id, prompt with replies",
    "as `oasst`",
    _is_tree,
    tree_rows,
    (
        Sample(
            "",
            {
                GROUP: "a",
                "tree_state": "ready_for_export",
                "prompt": {
                    "message_id": "a",
                    "text": "Name a sea.",
                    "role": "prompter",
                    "replies": [_reply("b", "The North Sea.", 0), _reply("c", "A lake.", 1)],
                },
            },
        ),
    ),
    ("score_column", "up_from", "down_to"),
    frozenset({"tree_state"}),
)
