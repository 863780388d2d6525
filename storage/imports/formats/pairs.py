"""Preference pairs: a preferred and a rejected reply are a thumb up and a thumb down.

Equal ratings, a tie, and a chosen reply rated below the rejected one are no preference: such pairs are
dropped.
"""

from collections.abc import Mapping
from typing import Any

from storage.errors import InvalidInput
from storage.imports.rows.cells import read_number
from storage.imports.rows.fields import CHATS, Fields
from storage.imports.rows.format import (
    Columns,
    Format,
    Rows,
    Sample,
    conversation,
    filled,
    first_name,
    prompt_turns,
    rated_row,
)
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped

# Column names in data sets of Argilla, Hugging Face and others; {} is chosen or rejected.
RATINGS = ("rating_{}", "{}_rating", "{}-rating", "score_{}", "{}_score", "{}_avg_rating")
STATUSES = ("tie", "swapped", "unchanged")  # of Argilla's Orca pairs
MARGINS = ("min_rating", "max_rating_rejected", "min_margin")
# Of Argilla's Orca pairs and Capybara: how the pair was made, which the replies' model never read.
MAKING = (
    "generations order labelling_prompt raw_labelling_response rationale original_chosen original_rejected "
    "original_response generation_prompt raw_generation_responses new_generations"
)


def pair_rows(fields: Fields) -> Rows:
    repeated = fields.has("messages") and fields.peek("messages") == fields.peek("chosen")
    beginning = prompt_turns(fields, () if repeated else CHATS)
    if repeated:
        fields.get("messages")  # UltraFeedback repeats the chosen conversation there
    halves = []
    for name, label in (("chosen", True), ("rejected", False)):
        turns = conversation(fields, name, beginning)
        halves.append(rated_row(fields, turns, name, label, side=f"{name}_"))
    chosen, rejected = halves
    if chosen.turns[:-1] != rejected.turns[:-1]:
        raise InvalidInput("chosen and rejected differ before their last message.", field="rejected")
    if chosen.turns == rejected.turns:
        yield Dropped("chosen and rejected are the same", 2)
    elif (why := _no_preference(fields)) is not None:
        yield Dropped(why, 2)
    else:
        yield from halves


def _no_preference(fields: Fields) -> str | None:
    """Why the ratings say that there is no preference, or not enough of one for the options."""
    options = fields.options
    good, bad = _rating(fields, "chosen"), _rating(fields, "rejected")
    both = fields.peek("rating")
    if isinstance(both, list) and len(both) == 2 and all(isinstance(one, int | float) for one in both):
        high, low = max(fields["rating"]), min(both)
        good, bad = high if good is None else good, low if bad is None else bad
    if fields.peek("status") in STATUSES and fields["status"] == "tie":
        return "a tie"
    if (least := options.min_rating) is not None and _known(good, fields, "chosen") < least:
        return f"chosen is rated below {least:g}"
    if (most := options.max_rating_rejected) is not None and _known(bad, fields, "rejected") > most:
        return f"rejected is rated above {most:g}"
    if (margin := options.min_margin) is not None:
        good, bad = _known(good, fields, "chosen"), _known(bad, fields, "rejected")
    if good is None or bad is None:
        return None
    if good == bad:
        return "chosen and rejected are rated alike"
    if good < bad:
        return "chosen is rated below rejected"
    return f"chosen is rated less than {margin:g} above rejected" if margin and good - bad < margin else None


def _rating(fields: Fields, side: str) -> float | None:
    """The rating of one side, if the record has one that is a number."""
    column = _rating_column(fields, side)
    if column is None:
        return None
    try:
        rating = read_number(fields.peek(column), column)
    except InvalidInput as error:
        if "Write it with a point" in error.message:
            raise
        return None  # N/A and the like: then the column is named as left out
    fields.get(column)
    return rating


def _known(rating: float | None, fields: Fields, side: str) -> float:
    if rating is not None:
        return rating
    column = _rating_column(fields, side) or f"rating_{side}"
    return read_number(fields.get(column), column)


def _rating_column(fields: Fields, side: str) -> str | None:
    names = [rating.format(side) for rating in RATINGS]
    return next((name for name in names if fields.peek(name) is not None), None)


def openai_rows(fields: Fields) -> Rows:
    """OpenAI's preference fine-tuning: `input` has the messages and the tools."""
    asked = fields.get("input")
    if not isinstance(asked, Mapping):
        raise InvalidInput("input must be an object with messages.", field="input")
    inner = fields.inner(asked)
    sides = {"chosen": fields.get("preferred_output"), "rejected": fields.get("non_preferred_output")}
    pair = fields.inner({"prompt": inner.get("messages"), **sides})
    yield from pair_rows(pair)
    fields.take(inner, {"parallel_tool_calls"})
    fields.take(pair)


def swift_rows(fields: Fields) -> Rows:
    """ms-swift: the conversation ends with the preferred reply; the other one stands beside it."""
    turns = fields.turns("messages", "assistant")
    rejected: Any = fields.get("rejected_response") or fields.get("rejected_messages")
    if isinstance(rejected, str):
        before = turns[:-1]
        rejected = [turn.message for turn in before] + [{"role": "assistant", "content": rejected}]
    rest = {name: fields[name] for name in fields if name not in ("messages", "rejected_response")}
    pair = fields.inner({**rest, "chosen": fields["messages"], "rejected": rejected})
    yield from pair_rows(pair)
    fields.take(pair)


def _is_pair(record: Columns, _options: ImportOptions) -> bool:
    return filled(record, "chosen", "rejected")


TREE = [{"role": "user", "content": "Name a tree."}]
OAK, STONE = ({"role": "assistant", "content": text} for text in ("An oak.", "A stone."))
PAIRS = Format(
    "pairs",
    "preference pairs: prompt, chosen, rejected",
    "a thumb up and a thumb down; a `prompt` column, or whole conversations that differ in the last message; "
    "no rows if they are rated alike, or chosen below rejected",
    _is_pair,
    pair_rows,
    (
        Sample("TRL", {"prompt": TREE, "chosen": [OAK], "rejected": [STONE]}),
        Sample(
            "UltraFeedback, binarized",
            {
                "prompt": "Name a tree.",
                "chosen": [*TREE, OAK],
                "rejected": [*TREE, STONE],
                "messages": [*TREE, OAK],
                "score_chosen": 8.5,
                "score_rejected": 4.0,
            },
        ),
        Sample(
            "HH-RLHF",
            {
                "chosen": "\n\nHuman: Name a bird.\n\nAssistant: A robin.",
                "rejected": "\n\nHuman: Name a bird.\n\nAssistant: No.",
            },
        ),
        Sample(
            "Orca pairs",
            {
                "system": "Be brief.",
                "question": "What is 2 + 2?",
                "chosen": "4.",
                "rejected": "It might be 5.",
            },
        ),
        Sample(
            "Orca pairs of distilabel",
            {
                "system": "",
                "input": "What is 2 + 2?",
                "chosen": "4.",
                "rejected": "5.",
                "rating": [9.0, 9.0],
                "status": "tie",
                "chosen_score": 9.0,
            },
        ),
        Sample(
            "LLaMA-Factory",
            {
                "conversations": [{"from": "human", "value": "Name a tree."}],
                "chosen": {"from": "gpt", "value": "An oak."},
                "rejected": {"from": "gpt", "value": "A stone."},
            },
        ),
    ),
    MARGINS,
    frozenset(MAKING.split()),
)
OPENAI = Format(
    "openai-preference",
    "OpenAI's preference fine-tuning: input, preferred_output, non_preferred_output",
    "a thumb up and a thumb down; refused if `input` has tools",
    lambda record, _: filled(record, "preferred_output", "non_preferred_output"),
    openai_rows,
    (
        Sample(
            "",
            {
                "input": {"messages": TREE, "tools": [], "parallel_tool_calls": True},
                "preferred_output": [OAK],
                "non_preferred_output": [STONE],
            },
        ),
    ),
)
SWIFT = Format(
    "swift-pairs",
    "ms-swift's pairs: messages, rejected_response",
    "a thumb up for the last message, a thumb down for the rejected response",
    lambda record, _: (
        "messages" in record and bool(first_name(record, ("rejected_response", "rejected_messages")))
    ),
    swift_rows,
    (Sample("", {"messages": [*TREE, OAK], "rejected_response": "A stone."}),),
)
